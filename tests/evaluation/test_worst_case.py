"""The worst case: what an attacker who may choose an attack for each image leaves, and what no choice goes below."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdet.evaluation.average_precision import (
    Ranking,
    match_detections,
    merged,
    pooled_average_precision,
    rank,
    voc_average_precision,
)
from robustdet.evaluation.metric import CocoMetric, VocMetric
from robustdet.evaluation.store import Outcome
from robustdet.evaluation.worst_case import FirstOrder, WorstCase, inside, shared_radius
from tests.evaluation.scenes import detections, scene, target

METRICS = {"area": VocMetric(2, rule="area"), "voc07": VocMetric(2), "coco": CocoMetric(2)}
PLACES = [[20 * x, 0, 20 * x + 10, 10] for x in range(4)]
RIGHT = (PLACES[0], 0.9, 1)
SLACK = 1e-12  # sums of floating-point numbers in another order


def outcome(*found, seconds=1.0):
    boxes, scores, labels = zip(*found, strict=True) if found else ([], [], [])
    return Outcome(
        detections(list(boxes), list(scores), list(labels)), {"seconds": float(seconds), "forward_passes": 3.0}
    )


@st.composite
def suites(draw):
    """Targets, and outcomes of two attacks to five under which objects are found, missed, mislabelled and invented.

    Scores are few, so that many are equal.
    """
    images = [f"image{number}" for number in range(draw(st.integers(1, 5)))]
    labels = {name: draw(st.lists(st.integers(1, 2), max_size=3)) for name in images}
    labels[images[0]] = labels[images[0]] or [1]  # without any object there is no AP
    targets = {
        name: target(
            name, PLACES[: len(of_image)], of_image, [bool(i) and draw(st.booleans()) for i in range(len(of_image))]
        )
        for name, of_image in labels.items()
    }
    detection = st.tuples(st.sampled_from(PLACES), st.integers(1, 5).map(lambda tenths: tenths / 10), st.integers(1, 2))
    found = st.lists(detection, max_size=5).map(lambda drawn: outcome(*drawn))
    attacks = [{name: draw(found) for name in images} for _ in range(draw(st.integers(2, 5)))]
    return targets, attacks


def worst(metric, targets, attacks):
    case = WorstCase(metric, targets)
    for number, outcomes in enumerate(attacks):
        case.add(f"attack{number}", outcomes)
    return case


def mean_ap(metric, targets, outcomes):
    return metric({name: one.detections for name, one in outcomes.items()}, targets).headline.mean


@pytest.mark.parametrize("name", METRICS)
@given(suite=suites())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_it_is_achieved_falls_with_each_attack_and_is_above_none(name, suite):
    targets, attacks = suite
    case, before = WorstCase(METRICS[name], targets), float("inf")
    for number, outcomes in enumerate(attacks):
        case.add(f"attack{number}", outcomes)
        assert case.value <= before
        before = case.value
        assert case.value == mean_ap(METRICS[name], targets, case.outcomes)
        for image_id, choice in case.choice.items():
            assert case.outcomes[image_id].detections is attacks[int(choice[-1])][image_id].detections
    assert all(case.value <= mean_ap(METRICS[name], targets, outcomes) for outcomes in attacks)
    assert sum(case.chosen.values()) == len(targets)


@given(suite=suites(), data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_what_does_not_depend_on_the_order_falls_for_any_larger_set_of_attacks(suite, data):
    targets, attacks = suite
    some = data.draw(st.lists(st.sampled_from(range(len(attacks))), min_size=1, unique=True))
    few = worst(METRICS["area"], targets, [attacks[number] for number in some])
    all_ = worst(METRICS["area"], targets, data.draw(st.permutations(attacks)))
    assert all_.area_bound <= few.area_bound + SLACK
    assert all(all_.image_ap[name] <= few.image_ap[name] for name in targets)
    assert all_.image_ap == worst(METRICS["area"], targets, attacks).image_ap
    assert all_.area_bound == pytest.approx(worst(METRICS["area"], targets, attacks).area_bound)


@given(suite=suites())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_no_choice_of_one_attack_an_image_goes_below_the_bound(suite):
    targets, attacks = suite
    case = worst(METRICS["area"], targets, attacks)
    assert case.area_bound <= case.value + SLACK
    choices = itertools.product(range(len(attacks)), repeat=len(targets))
    for choice in itertools.islice(choices, 0, None, max(len(attacks) ** len(targets) // 50, 1)):
        mixed = {name: attacks[number][name] for name, number in zip(targets, choice, strict=True)}
        assert case.area_bound <= mean_ap(METRICS["area"], targets, mixed) + SLACK


def test_the_bound_of_one_attack_is_its_own_map():
    found, targets = scene(30, 2, seed=5)
    outcomes = {name: Outcome(one, {"seconds": 0.0, "forward_passes": 3.0}) for name, one in found.items()}
    case = worst(METRICS["area"], targets, [outcomes])
    assert case.area_bound == case.value


def test_a_false_alarm_hurts_where_it_ranks_above_what_is_right_elsewhere():
    """What no image's own AP shows: an image without objects, and a wrong box of a class that others have."""
    targets = {"a": target("a", [PLACES[0]], [1]), "empty": target("empty", [], [])}
    clean = {"a": outcome(RIGHT), "empty": outcome()}
    low = {"a": outcome(RIGHT), "empty": outcome((PLACES[1], 0.5, 1))}
    high = {"a": outcome(RIGHT), "empty": outcome((PLACES[1], 0.95, 1))}
    other_class = {"a": outcome(RIGHT), "empty": outcome((PLACES[1], 0.99, 2))}
    case = worst(METRICS["area"], targets, [clean, low, other_class, high])
    assert case.choice["empty"] == "attack3"
    assert case.value == case.area_bound == 0.5


def test_two_attacks_that_hurt_different_images_are_stronger_together():
    targets = {name: target(name, [PLACES[0]], [1]) for name in "abcd"}
    clean = {name: outcome(RIGHT) for name in "abcd"}
    x = clean | {"a": outcome(), "b": outcome((PLACES[1], 0.99, 1), RIGHT)}
    y = clean | {"c": outcome()}
    case = worst(METRICS["area"], targets, [clean, x, y])
    assert case.chosen == {"attack0": 1, "attack1": 2, "attack2": 1}
    assert case.value == pytest.approx(2 / 4 * 2 / 3)
    assert case.image_ap == {"a": 0.0, "b": 0.5, "c": 0.0, "d": 1.0}


def test_images_that_an_attack_lacks_keep_their_choice():
    targets = {name: target(name, [PLACES[0]], [1]) for name in "ab"}
    case = worst(METRICS["area"], targets, [{name: outcome(RIGHT, seconds=1) for name in "ab"}])
    case.add("half", {"b": outcome(seconds=2)})
    assert case.choice == {"a": "attack0", "b": "half"}
    assert {name: one.measures["seconds"] for name, one in case.outcomes.items()} == {"a": 1.0, "b": 3.0}
    assert {name: one.measures["forward_passes"] for name, one in case.outcomes.items()} == {"a": 3.0, "b": 6.0}
    case.add("nothing", {})
    assert case.chosen == {"attack0": 1, "half": 1, "nothing": 0}


def test_errors_name_the_attack_and_the_image():
    targets = {name: target(name, [PLACES[0]], [1]) for name in "ab"}
    case = WorstCase(METRICS["area"], targets)
    with pytest.raises(ValueError, match="attack 'clean': image 'b' has no outcome; the first attack needs every one"):
        case.add("clean", {"a": outcome()})
    with pytest.raises(ValueError, match="attack 'clean': image 'c' has no target"):
        case.add("clean", {name: outcome() for name in "abc"})
    case.add("clean", {name: outcome() for name in "ab"})
    with pytest.raises(ValueError, match="attack 'clean' was added before"):
        case.add("clean", {"a": outcome()})


def test_first_order_effects_are_exact_for_a_single_detection():
    """Against AP without envelope, computed anew with the detection among the others."""
    found, targets = scene(25, 3, seed=7, difficult=0.0)
    matched = [match_detections(found[name], targets[name]) for name in found]
    ranking, group = rank(matched[:15]), rank(matched[15:])
    objects = np.concatenate([image.objects for image in matched[:15]])

    def plain(ranking, label):
        hits = ranking.hits[ranking.of_class(label)]
        return (hits.cumsum() / np.arange(1, len(hits) + 1))[hits].sum() / (objects == label).sum()

    expected = np.zeros(11)  # the last image has no detections
    for place in range(len(group.labels)):
        columns = (group.scores, group.labels, group.hits, group.images)
        one = Ranking(*(column[place : place + 1] for column in columns))
        label = int(one.labels[0])
        expected[one.images[0]] += plain(merged([ranking, one]), label) - plain(ranking, label)
    np.testing.assert_allclose(FirstOrder(ranking, objects)(group, 11), expected, atol=1e-12)


def test_which_attacks_share_a_ball():
    epsilons = {"clean": None, "a": 8 / 255, "b": 8 / 255, "small": 4 / 255, "large": 16 / 255, "unbounded": None}
    radius = shared_radius(epsilons)
    assert radius == 8 / 255
    assert inside(epsilons, radius) == ["a", "b", "small"]
    assert shared_radius({"clean": None}) is None


def test_pooled_ap_is_the_ap_of_one_class_that_they_all_are():
    for name, found in scene(40, 1, seed=3)[0].items():
        one = scene(40, 1, seed=3)[1][name]
        pooled = pooled_average_precision(match_detections(found, one))
        if not (~one.difficult).any():
            assert pooled == 1.0
            continue
        expected = voc_average_precision({name: found}, {name: one}, 1, rule="area").mean
        assert pooled == pytest.approx(expected)
