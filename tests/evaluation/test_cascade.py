"""Attacks one after the other, each on the images of which an object is still found."""

from dataclasses import replace

import pytest
import torch

from robustdet.attacks.among_others import AmongOthers, ChosenSoFar
from robustdet.attacks.ap_surrogate import APSurrogate
from robustdet.attacks.apgd import APGD
from robustdet.attacks.base import BaseAttack
from robustdet.attacks.objectives import total
from robustdet.attacks.pgd import PGD
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from robustdet.evaluation.average_precision import match_detections, pooled_average_precision
from robustdet.evaluation.cascade import Cascade
from robustdet.evaluation.curves import measured_curves
from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.metric import VocMetric
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.evaluation.record import read_record, write_record
from robustdet.evaluation.worst_case import WorstCase
from tests.evaluation.quadrants import QuadrantDetector, quadrant_batches
from tests.evaluation.records import RUN

BALL = LInf("64/255")


class Counting(BaseAttack):
    """Darkens whole images by a share of ε, and remembers which it was asked for."""

    def __init__(self, share: float) -> None:
        self.threat = BALL
        self.share = share
        self.asked: list[str] = []

    def __call__(self, victim, images, targets, generators):
        self.asked += [target.image_id for target in targets]
        return self.threat.project(images - self.share * BALL.epsilon, images)


class Failing(Counting):
    def __call__(self, victim, images, targets, generators):
        raise ZeroDivisionError("on purpose")


def run(folder, attacks, kind=Cascade, batches=None):
    suite = kind({"clean": None, **attacks}, {name: {"name": name} for name in attacks}, folder, {})
    detector = QuadrantDetector().eval()
    for batch in batches or quadrant_batches(12, 4):
        suite.evaluate_batch(detector, batch)
    return suite, suite.records(VocMetric(3), RUN, describe_environment("cpu"), ["a", "b", "c"])


def own_ap(suite, name):
    targets = suite.seen.targets
    outcomes = suite.attacks[name].read(suite.seen.contents)
    return {key: pooled_average_precision(match_detections(o.detections, targets[key])) for key, o in outcomes.items()}


def test_a_later_attack_has_the_images_that_are_left(tmp_path):
    attacks = {"weak": Counting(0.2), "strong": Counting(1.0), "last": PGD(total, BALL, 20, "8/255")}
    suite, _ = run(tmp_path, attacks)
    objects = {key: len(target.learnable.labels) for key, target in suite.seen.targets.items()}
    left = {key: ap for key, ap in own_ap(suite, "clean").items() if ap > 0}
    assert attacks["weak"].asked == sorted(left)
    left = {key for key, ap in own_ap(suite, "weak").items() if min(ap, left[key]) > 0 and objects[key]}
    assert left
    assert attacks["strong"].asked == sorted(left)
    after = {key for key, ap in own_ap(suite, "strong").items() if ap > 0}
    assert set(own_ap(suite, "last")) == after


def test_the_result_is_one_worst_case_that_says_what_each_stage_did(tmp_path):
    attacks = {"weak": Counting(0.2), "last": PGD(total, BALL, 20, "8/255")}
    suite, records = run(tmp_path, attacks)
    assert [record.attack for record in records] == ["clean", "worst_case"]
    clean, worst = records
    assert worst.map < clean.map
    assert worst.num_images == clean.num_images == 12
    weak, last = worst.stages
    assert (weak.attack, weak.images, weak.forward_passes) == ("weak", 12, 0)  # it does not ask
    assert (last.attack, last.images) == ("last", len(own_ap(suite, "last")))
    assert last.forward_passes == 20 * last.images
    assert worst.forward_passes == pytest.approx(20 * last.images / 12)
    assert weak.chosen + last.chosen + worst.chosen["clean"] == 12
    assert worst.attack_settings["stages"] == {"weak": {"name": "weak"}, "last": {"name": "last"}}
    assert read_record(write_record(worst, tmp_path)) == worst


def test_is_never_above_the_suite_of_the_same_attacks_in_full_where_a_lost_image_stays_lost(tmp_path):
    attacks = {"weak": Counting(0.2), "last": PGD(total, BALL, 20, "8/255")}
    cascade = run(tmp_path / "cascade", attacks)[1][-1]
    full = run(tmp_path / "full", attacks, SuiteEvaluator)[1][-1]
    assert cascade.image_ap == full.image_ap


def test_goes_on_where_it_was_interrupted(tmp_path):
    batches = quadrant_batches(12, 4)
    whole = run(tmp_path / "whole", {"weak": Counting(0.2), "last": PGD(total, BALL, 20, "8/255")})[1]

    class Interrupted(Counting):
        def __call__(self, victim, images, targets, generators):
            if self.asked:
                raise KeyboardInterrupt
            return super().__call__(victim, images, targets, generators)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", {"weak": Interrupted(0.2), "last": PGD(total, BALL, 20, "8/255")}, batches=batches)
    again = Counting(0.2)
    _, records = run(tmp_path / "parts", {"weak": again, "last": PGD(total, BALL, 20, "8/255")}, batches=batches)
    assert records[-1].map == whole[-1].map
    assert records[-1].chosen == whole[-1].chosen


def test_a_stage_that_fails_is_named_and_the_next_has_its_images(tmp_path):
    attacks = {"broken": Failing(1.0), "last": Counting(1.0)}
    suite, records = run(tmp_path, attacks)
    assert list(suite.seen.failed) == ["broken"]
    assert records[-1].failed == suite.seen.failed
    assert len(attacks["last"].asked) == 12
    assert [stage.attack for stage in records[-1].stages] == ["last"]


def test_flags_of_a_stage_stand_with_the_worst_case_under_its_name(tmp_path):
    class Backwards(Counting):
        knowledge = "gradients"

        def __call__(self, victim, images, targets, generators):
            return images.clone()

    _, records = run(tmp_path, {"idle": Backwards(0.0), "last": Counting(1.0)}, batches=quadrant_batches(60, 20))
    assert any(text.startswith("loss_not_raised") and text.endswith("(idle)") for text in records[-1].flags)


def test_images_without_objects_are_attacked_once(tmp_path):
    (batch,) = quadrant_batches(3, 3)
    empty = [
        replace(t, **{k: getattr(t, k)[:0] for k in ("boxes", "labels", "difficult", "crowd")}) for t in batch.targets
    ]
    attacks = {"first": Counting(0.1), "second": Counting(1.0)}
    suite = Cascade({"clean": None, **attacks}, {}, tmp_path, {})
    suite.evaluate_batch(QuadrantDetector().eval(), replace(batch, targets=empty))
    assert len(attacks["first"].asked) == 3
    assert attacks["second"].asked == []
    assert torch.equal(batch.images, quadrant_batches(3, 3)[0].images)


def all_rounds(folder, attacks, detector=None):
    """The cascade after all its rounds, its records, and how many evaluations each round was."""
    suite = Cascade({"clean": None, **attacks}, {name: {"name": name} for name in attacks}, folder, {})
    metric, detector = VocMetric(3), detector or QuadrantDetector().eval()
    batches = quadrant_batches(12, 4)
    rounds = [sum(suite.evaluate_batch(detector, batch) for batch in batches)]
    suite.merge([suite.seen])
    while suite.next_round(metric):
        rounds.append(sum(suite.evaluate_batch(detector, batch) for batch in batches))
        suite.merge([suite.seen])
    return suite, suite.records(metric, RUN, describe_environment("cpu"), ["a", "b", "c"]), rounds


def among(ball=BALL):
    return APGD(AmongOthers(), ball, 10, ["random"])


def test_a_second_round_attacks_among_the_detections_that_the_first_left(tmp_path):
    attack = among()
    suite, records, rounds = all_rounds(tmp_path, {"among": attack, "weak": Counting(0.2)})
    assert suite.waiting == {}
    assert list(suite.attacks) == ["clean", "weak", "among"]
    clean_and_weak = {name: suite.attacks[name].read(suite.seen.contents) for name in ("clean", "weak")}
    choice = WorstCase(VocMetric(3), suite.seen.targets)
    for name, outcomes in clean_and_weak.items():
        choice.add(name, outcomes)
    assert attack.objective.curves.digest == measured_curves(choice.effects).digest
    assert set(own_ap(suite, "among")) == set(suite.seen.targets)  # those without objects, too: false alarms
    assert [stage.attack for stage in records[-1].stages] == ["weak", "among"]
    assert records[-1].map < choice.value
    assert rounds == [24, len(own_ap(suite, "among"))]


def test_a_round_has_no_images_where_the_worst_case_is_0_already(tmp_path):
    strong = PGD(total, LInf("255/255"), 20, "64/255")
    _, records, rounds = all_rounds(tmp_path, {"strong": strong, "among": among(LInf("255/255"))})
    assert records[-1].map == 0
    assert rounds[1] == 0


def test_each_of_those_that_wait_has_a_round_of_its_own_and_curves_measured_anew(tmp_path):
    first, second = among(ball=LInf("32/255")), among()  # the first does not take all
    suite, records, rounds = all_rounds(tmp_path, {"first": first, "weak": Counting(0.2), "second": second})
    assert list(suite.attacks) == ["clean", "weak", "first", "second"]
    choice = WorstCase(VocMetric(3), suite.seen.targets)
    for name in ("clean", "weak", "first"):
        choice.add(name, suite.attacks[name].read(suite.seen.contents))
    assert second.objective.curves.digest == measured_curves(choice.effects).digest != first.objective.curves.digest
    assert rounds[1:] == [len(own_ap(suite, "first")), len(own_ap(suite, "second"))]
    assert suite.seen.stored == {"clean": 0, "weak": 0, "first": 0, "second": 0}
    assert [stage.attack for stage in records[-1].stages] == ["weak", "first", "second"]


def test_a_second_round_goes_on_too_and_says_what_was_there(tmp_path):
    first, records, _ = all_rounds(tmp_path, {"weak": Counting(0.2), "among": among()})
    assert first.seen.stored == {"clean": 0, "weak": 0, "among": 0}
    again, same, rounds = all_rounds(tmp_path, {"weak": Counting(0.2), "among": among()})
    assert rounds == [0, 0]
    assert again.seen.stored == {"clean": 12, "weak": 12, "among": len(own_ap(again, "among"))}
    assert same[-1].map == records[-1].map
    # another first round: other curves, and another attack
    strong = PGD(total, BALL, 3, "8/255")
    other, _, rounds = all_rounds(tmp_path, {"weak": Counting(0.2), "strong": strong, "among": among()})
    assert rounds[1] == len(own_ap(other, "among")) > 0


def test_what_failed_in_the_first_round_stays_failed_and_is_not_asked_again(tmp_path):
    suite, records, _ = all_rounds(tmp_path, {"broken": Failing(1.0), "weak": Counting(0.2), "among": among()})
    assert list(suite.seen.failed) == list(records[-1].failed) == ["broken"]
    assert [stage.attack for stage in records[-1].stages] == ["weak", "among"]


def test_processes_that_share_the_images_have_one_all_rounds(tmp_path):
    """Each makes its curves from all that both have found; what one measured is no image that was there already."""
    alone = all_rounds(tmp_path / "one", {"weak": Counting(0.2), "among": among()})[1]
    detector, metric, batches = QuadrantDetector().eval(), VocMetric(3), quadrant_batches(12, 4)
    suites = [
        Cascade({"clean": None, "weak": Counting(0.2), "among": among()}, {}, tmp_path / "two", {}) for _ in range(2)
    ]
    shares = batches[:1], batches[1:]
    for more in (True, False):
        for suite, share in zip(suites, shares, strict=True):
            for batch in share:
                suite.evaluate_batch(detector, batch)
        both = [suite.seen for suite in suites]
        for suite in suites:
            suite.merge(both)
            assert suite.next_round(metric) == (["among"] if more else [])
    records = suites[0].records(metric, RUN, describe_environment("cpu"), ["a", "b", "c"])
    assert records[-1].map == alone[-1].map
    assert suites[0].seen.stored == suites[1].seen.stored == {"clean": 0, "weak": 0, "among": 0}


def test_a_suite_without_such_attacks_has_one_round(tmp_path):
    assert len(all_rounds(tmp_path, {"weak": Counting(0.2)})[2]) == 1


class FailingLater(BaseAttack):
    """On its second batch; on the first it takes what PGD can."""

    def __init__(self) -> None:
        self.threat = BALL
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls > 1:
            raise ZeroDivisionError("on purpose")
        return PGD(total, BALL, 20, "8/255")(*args)


def test_what_an_attack_took_before_it_failed_counts(tmp_path):
    """Later attacks were not given those images: without it they would stand as if nobody had attacked them."""
    weak = Counting(0.2)
    suite, records = run(tmp_path / "failed", {"broken": FailingLater(), "weak": weak})
    assert list(suite.seen.failed) == list(records[-1].failed) == ["broken"]
    lost = {key for key, ap in own_ap(suite, "broken").items() if ap == 0}
    assert lost
    assert not lost & set(weak.asked)
    without = run(tmp_path / "without", {"weak": Counting(0.2)})[1]
    assert records[-1].map <= without[-1].map
    first = records[-1].stages[0]
    assert (first.attack, first.images) == ("broken", 4)


@pytest.mark.parametrize("first", [{}, {"broken": Failing(1.0)}], ids=["none", "failed"])
def test_where_nobody_attacked_before_the_second_round_has_no_curves(tmp_path, first):
    attack = among()
    _, records, _ = all_rounds(tmp_path, {**first, "among": attack})
    assert attack.objective.curves is None
    alone = run(tmp_path / "alone", {"among": APGD(APSurrogate(), BALL, 10, ["random"])})[1]
    assert records[-1].map == alone[-1].map


class GoingOn(BaseAttack):
    """From what was chosen, darker; remembers what it was given."""

    def __init__(self) -> None:
        self.threat = BALL
        self.start = ChosenSoFar(BALL)
        self.given: dict[str, torch.Tensor] = {}

    def __call__(self, victim, images, targets, generators):
        begun = self.start(victim, images, targets, generators)
        self.given |= {target.image_id: image for target, image in zip(targets, begun, strict=True)}
        return self.threat.project(begun - 8 / 255, images)


def under(suite, name):
    """The images of the suite under one of its attacks, as bytes, by id."""
    batches = quadrant_batches(12, 4)
    made = [suite.attack(name, QuadrantDetector().eval(), batch) for batch in batches]
    ids = [target.image_id for batch in batches for target in batch.targets]
    return dict(zip(ids, (torch.cat(made) * 255).round(), strict=True))


def test_a_round_goes_on_from_the_images_that_were_chosen(tmp_path):
    attacks = {"weak": Counting(0.1), "strong": PGD(total, LInf("16/255"), 2, "8/255")}
    first, second = GoingOn(), GoingOn()
    suite, records, _ = all_rounds(tmp_path, {**attacks, "first": first, "second": second})
    assert [stage.attack for stage in records[-1].stages] == ["weak", "strong", "first", "second"]
    choice = WorstCase(VocMetric(3), suite.seen.targets)
    for name, then in (("clean", None), ("weak", None), ("strong", first), ("first", second)):
        choice.add(name, suite.attacks[name].read(suite.seen.contents))
        if then is not None:
            images = {name: under(suite, name) for name in set(choice.choice.values())}
            assert then.given
            for key, image in then.given.items():
                assert torch.equal((image * 255).round(), images[choice.choice[key]][key])
    assert {"strong", "first"} <= set(choice.choice.values())  # not all from one


def test_such_a_round_is_made_again_as_it_was_after_an_interruption(tmp_path):
    def attacks():
        return {"weak": Counting(0.1), "first": GoingOn(), "second": GoingOn()}

    straight, records, _ = all_rounds(tmp_path / "straight", attacks())
    part = attacks()
    suite = Cascade({"clean": None, **part}, {name: {"name": name} for name in part}, tmp_path / "parts", {})
    detector, batches = QuadrantDetector().eval(), quadrant_batches(12, 4)
    for rounds in range(2):  # killed before the third
        if rounds:
            suite.merge([suite.seen])
            suite.next_round(VocMetric(3))
        for batch in batches:
            suite.evaluate_batch(detector, batch)
    assert len([*(tmp_path / "parts" / "pictures").glob("*/*.npz")]) == 2 * len(batches)  # no later round for a third
    resumed = attacks()
    again, same, evaluated = all_rounds(tmp_path / "parts", resumed)
    assert evaluated[:2] == [0, 0] < evaluated[2:]
    assert same[-1].map == records[-1].map
    assert same[-1].forward_passes == records[-1].forward_passes
    assert resumed["weak"].asked == []  # in a batch of another size float32 would round otherwise
    assert resumed["first"].given == {}
    assert not (tmp_path / "parts" / "pictures").exists()  # nobody goes on from them any more
    for name in ("first", "second"):
        one, other = (each.attacks[name].read(each.seen.contents) for each in (straight, again))
        assert one.keys() == other.keys()
        for key, outcome in one.items():
            assert torch.equal(outcome.detections.scores, other[key].detections.scores)


def test_what_is_kept_is_what_was_measured(tmp_path):
    """Images that are handed on must give the numbers that are told of them (fra31/auto-attack, issue 74)."""
    part = {"strong": PGD(total, LInf("16/255"), 2, "8/255"), "first": GoingOn()}
    suite = Cascade({"clean": None, **part}, {name: {"name": name} for name in part}, tmp_path, {})
    detector = QuadrantDetector().eval()
    for batch in quadrant_batches(12, 4):
        suite.evaluate_batch(detector, batch)
    kept = suite.attacks["strong"].pictures()
    for content, picture in kept.items():
        (found,) = detector.detect(detector(picture[None] / 255))
        (outcome,) = suite.attacks["strong"].recall([content])
        assert torch.equal(found.scores, outcome.detections_8bit.scores)
        assert torch.equal(found.boxes, outcome.detections_8bit.boxes)
    assert len(kept) == 12


def test_an_evaluation_that_ends_leaves_the_pictures_that_one_of_more_images_goes_on_from(tmp_path):
    part = {"weak": Counting(0.1), "first": GoingOn()}
    suite = Cascade({"clean": None, **part}, {name: {"name": name} for name in part}, tmp_path, {})
    for batch in quadrant_batches(12, 4):  # killed before the second round
        suite.evaluate_batch(QuadrantDetector().eval(), batch)
    kept = sorted(file.relative_to(tmp_path) for file in (tmp_path / "pictures").glob("*/*.npz"))
    few = Cascade({"clean": None, **part}, {name: {"name": name} for name in part}, tmp_path, {})
    while True:
        for batch in quadrant_batches(4, 4):
            few.evaluate_batch(QuadrantDetector().eval(), batch)
        few.merge([few.seen])
        if not few.next_round(VocMetric(3)):
            break
    assert sorted(file.relative_to(tmp_path) for file in (tmp_path / "pictures").glob("*/*.npz")) == kept
    weak = Counting(0.1)
    all_rounds(tmp_path, {"weak": weak, "first": GoingOn()})
    assert weak.asked == []
    assert not (tmp_path / "pictures").exists()


def test_pictures_that_an_ended_evaluation_discarded_are_made_again(tmp_path, caplog):
    strong = PGD(total, LInf("16/255"), 2, "8/255")
    all_rounds(tmp_path, {"strong": strong, "first": GoingOn()})
    more = GoingOn()
    again, _, evaluated = all_rounds(tmp_path, {"strong": strong, "first": GoingOn(), "more": more})
    assert evaluated[:2] == [0, 0] < evaluated[2:]
    told = [message for message in caplog.messages if "pictures that later attacks go on from" in message]
    assert told[0].startswith("strong: ")
    assert len(told) == len({message.split(":")[0] for message in told})  # once an attack
    straight, _, _ = all_rounds(tmp_path / "straight", {"strong": strong, "first": GoingOn(), "more": GoingOn()})
    one, other = (suite.attacks["more"].read(suite.seen.contents) for suite in (straight, again))
    for key, outcome in one.items():
        assert torch.equal(outcome.detections.scores, other[key].detections.scores)


def test_alone_and_without_a_choice_it_begins_with_clean_images():
    batch = quadrant_batches(3, 3)[0]
    victim = DetectorVictim(QuadrantDetector().eval())
    assert torch.equal(ChosenSoFar(BALL)(victim, batch.images, batch.targets, []), batch.images)


def test_an_image_that_was_not_measured_can_be_shown_all_the_same(tmp_path):
    """More pictures than `suite.max_images`: nothing was chosen of them."""
    suite, _, _ = all_rounds(tmp_path, {"weak": Counting(0.1), "on": GoingOn()})
    (batch,) = quadrant_batches(15, 15)
    views = suite.look(QuadrantDetector().eval(), batch)
    images, found = views["on"]
    assert len(found) == 15
    assert torch.equal(images[12:], BALL.project(batch.images[12:] - 8 / 255, batch.images[12:]))
