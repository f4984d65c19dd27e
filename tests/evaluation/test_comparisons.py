from dataclasses import replace

import pytest

from robustdet.evaluation.comparisons import Entry, clearly_lower, loss_wins, suite_flags
from robustdet.evaluation.metric import VocMetric
from robustdet.evaluation.store import Outcome
from tests.evaluation.scenes import detections, target

BOX = [0, 0, 10, 10]
IMAGES = [f"image{number}" for number in range(20)]
TARGETS = {name: target(name, [BOX], [1]) for name in IMAGES}
RADIUS = 8 / 255


def entry(name, found, settings=None, knowledge="gradients", epsilon=RADIUS, loss=1.0):
    """An attack under which the object of ``found`` of the 20 images is still detected."""
    hit, miss = detections([BOX], [0.9], [1]), detections([], [], [])
    measures = {"classification": loss, "localization": 0.0, "positives": 1.0}
    outcomes = {image: Outcome(hit if i < found else miss, measures) for i, image in enumerate(IMAGES)}
    return Entry(name, settings, knowledge, epsilon, found / len(IMAGES), outcomes, TARGETS)


def pgd(found, steps=10, epsilon="8/255", step_size="2/255"):
    fields = {"steps": steps, "threat": {"epsilon": epsilon}, "step_size": step_size}
    return entry(f"pgd_{steps}_{epsilon}_{step_size}", found, fields, epsilon=eval(epsilon))


def aimed(found, at):
    """An attack with the annotations as targets (None), or with what its objective puts in their place."""
    plain = {"_target_": "get_method", "path": "total"}
    objective = plain if at is None else {"_target_": f"attacks.{at}", "objective": plain, "threshold": 0.3}
    return entry(f"aimed_at_{at}", found, {"objective": objective, "steps": 7})


def test_a_sound_suite():
    entries = [
        *(pgd(found, steps=steps) for found, steps in ((15, 1), (8, 10), (8, 50))),
        *(pgd(found, epsilon=epsilon) for found, epsilon in ((20, "0/255"), (12, "4/255"), (0, "255/255"))),
        pgd(9, step_size="8/255"),
        entry("noise", 19, knowledge="nothing", loss=0.5),
        entry("square", 12, knowledge="outputs", loss=0.9),
        entry("aid_fool", 8, knowledge="discriminator"),
        entry("jpeg", 17, knowledge="nothing", epsilon=None),
        entry("dag", 0, epsilon=None),  # it aims: what no ball holds may do anything
        aimed(9, "OwnPredictions"),
        aimed(8, None),
    ]
    assert suite_flags(entries, RADIUS) == {}


@pytest.mark.parametrize(
    ("entries", "flags"),
    [
        (
            [pgd(4, steps=1), pgd(19, steps=10), pgd(4, steps=50)],
            {"pgd_10_8/255_2/255": ["more_steps_help: pgd_1_8/255_2/255 leaves 75.0 mAP less with fewer steps"]},
        ),
        (
            [pgd(5, epsilon="4/255"), pgd(18)],
            {"pgd_10_8/255_2/255": ["larger_epsilon_helps: pgd_10_4/255_2/255 leaves 65.0 mAP less with a smaller ε"]},
        ),
        (
            [pgd(5), pgd(18, step_size="8/255")],
            {"pgd_10_8/255_8/255": ["coarse_steps: pgd_10_8/255_2/255 leaves 65.0 mAP less with finer steps"]},
        ),
        (
            [pgd(10), entry("jpeg", 1, knowledge="nothing", epsilon=None)],
            {"pgd_10_8/255_2/255": ["beaten_by_the_unseen: jpeg leaves 45.0 mAP less, without aiming at anything"]},
        ),
        (
            [aimed(2, "OwnPredictions"), aimed(15, None), aimed(1, "Other")],
            {
                "aimed_at_None": [
                    "beaten_by_own_predictions: aimed_at_OwnPredictions leaves 65.0 mAP less, without the annotations"
                ]
            },
        ),
        (
            [pgd(3, epsilon="255/255")],
            {
                "pgd_10_255/255_2/255": [
                    "survives_any_change: 15.0 mAP are left although every pixel may take any value"
                ]
            },
        ),
        (
            [entry("weak", 18), entry("strong", 16), entry("noise", 5, knowledge="nothing")],
            {"strong": ["beaten_by_black_box: noise leaves 55.0 mAP less, without any gradient"]},
        ),
        (
            [entry("weak", 18), entry("strong", 16, loss=2.0), entry("square", 16, knowledge="outputs", loss=3.0)],
            {
                "strong": [
                    "loss_beaten_by_black_box: in 20 of 20 images with objects square finds a higher loss than every "
                    "white-box attack"
                ]
            },
        ),
        (
            [entry("strong", 16), entry("aid_fool", 5, knowledge="discriminator", loss=9.0)],
            {"strong": ["beaten_by_adaptive: aid_fool leaves 55.0 mAP less, by the discriminator"]},
        ),
    ],
)
def test_what_should_not_be_is_flagged_with_the_number_that_it_makes_doubtful(entries, flags):
    assert suite_flags(entries, RADIUS) == flags


def test_only_attacks_of_one_ball_are_compared():
    assert suite_flags([entry("strong", 16), entry("noise", 5, knowledge="nothing", epsilon=16 / 255)], RADIUS) == {}
    assert suite_flags([entry("noise", 5, knowledge="nothing")], RADIUS) == {}


def test_attacks_that_differ_in_two_fields_are_no_row():
    assert suite_flags([pgd(4, steps=1, step_size="8/255"), pgd(19, steps=10)], RADIUS) == {}


def test_chance_is_no_culprit():
    assert clearly_lower(entry("a", 5), entry("b", 15))
    assert not clearly_lower(entry("a", 15), entry("b", 5))
    assert not clearly_lower(entry("a", 15), entry("b", 16))  # one image of 20 may be chance
    assert loss_wins(entry("a", 5, loss=2.0), [entry("b", 5), entry("c", 5, loss=2.0)]) == (0, 20)


def test_false_alarms_in_images_without_objects_count():
    """Their own AP is 1 whatever is found there: mAP alone shows what they cost."""
    images = [*IMAGES, *(f"empty{number}" for number in range(20))]
    targets = TARGETS | {name: target(name, [], []) for name in images[20:]}
    measures = {"classification": 1.0, "localization": 0.0, "positives": 1.0}

    def suite_entry(name, knowledge, alarms):
        right, wrong, none = (detections([BOX] * n, [score] * n, [1] * n) for n, score in ((1, 0.5), (1, 0.9), (0, 0)))
        found = {image: right if image in TARGETS else wrong if alarms else none for image in images}
        value = VocMetric(1, rule="area")(found, targets).headline.mean
        outcomes = {image: Outcome(one, measures) for image, one in found.items()}
        return Entry(name, None, knowledge, RADIUS, value, outcomes, targets)

    noise, pgd = suite_entry("noise", "nothing", True), suite_entry("pgd", "gradients", False)
    assert (noise.map, pgd.map) == (0.5, 1.0)
    assert clearly_lower(noise, pgd)
    assert suite_flags([noise, pgd], RADIUS) == {
        "pgd": ["beaten_by_black_box: noise leaves 50.0 mAP less, without any gradient"]
    }


def test_a_single_image_of_sixty_is_no_flag():
    square, rival = entry("square", 16, knowledge="outputs"), entry("pgd", 16)
    for wins, flagged in ((1, False), (4, False), (6, True)):
        outcomes = {
            image: replace(one, measures=one.measures | {"classification": 2.0 if i < wins else 0.5})
            for i, (image, one) in enumerate(square.outcomes.items())
        }
        assert bool(suite_flags([replace(square, outcomes=outcomes), rival], RADIUS)) == flagged


def test_the_images_that_both_have_are_compared():
    a, b = entry("a", 5), entry("b", 15)
    some = {name: outcome for i, (name, outcome) in enumerate(a.outcomes.items()) if i < 5 or i >= 15}
    assert not clearly_lower(replace(a, outcomes=some), b)  # that tell them apart in nothing
    assert not clearly_lower(replace(a, outcomes={}), b)


def test_an_image_without_a_rival_says_nothing():
    square, rival = entry("square", 5, loss=2.0), entry("pgd", 5)
    half = dict(list(rival.outcomes.items())[:10])
    assert loss_wins(square, [replace(rival, outcomes=half)]) == (10, 10)
    assert loss_wins(square, [replace(rival, outcomes={})]) == (0, 0)
