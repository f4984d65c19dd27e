import json
from pathlib import Path

import pytest
import torch

from robustdet.evaluation.objects import Confusion, count_confusion
from robustdet.evaluation.store import Outcome
from robustdet.evaluation.tide import KINDS, count_errors
from tests.evaluation.scenes import detections, scene, target

GOLDEN = Path(__file__).parents[1] / "golden" / "tide.json"
A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
NEAR_A, FAR = [6, 0, 16, 10], [70, 70, 80, 80]  # IoU with A: 0.25


def errors(one, *found):
    boxes, scores, labels = zip(*found, strict=True) if found else ([], [], [])
    return count_errors({one.image_id: detections(list(boxes), list(scores), list(labels))}, {one.image_id: one})


def counts(**some):
    return dict.fromkeys(KINDS, 0) | some


def test_it_says_what_tidecv_says_of_a_fixed_result():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    truth, found = {}, {}
    for name, one in golden["images"].items():
        truth[name] = target(name, [row[:4] for row in one["objects"]], [row[4] for row in one["objects"]])
        boxes, scores, labels = ([row[of] for row in one["detections"]] for of in (slice(4), 4, 5))
        found[name] = detections(boxes, scores, labels)
    ours = count_errors(found, truth)
    assert ours.counts == golden["tidecv"]["counts"]
    assert min(ours.counts.values()) > 0
    assert ours.ap == pytest.approx(golden["tidecv"]["ap"], abs=1e-9)
    assert ours.costs == pytest.approx(golden["tidecv"]["costs"], abs=1e-9)
    for both in ("false_positives_cost", "false_negatives_cost"):
        assert getattr(ours, both) == pytest.approx(golden["tidecv"][both], abs=1e-9)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ((NEAR_A, 0.8, 1), "localization"),
        ((A, 0.8, 2), "classification"),
        ((NEAR_A, 0.8, 2), "both"),
        ((FAR, 0.8, 1), "background"),
    ],
)
def test_each_kind_of_wrong_detection(wrong, kind):
    one = target("a", [A, B, C], [1, 2, 2])
    found = errors(one, wrong, (B, 0.9, 2), (C, 0.7, 2))
    near = kind in ("localization", "classification")  # the object is not missed: the detection is its own
    assert found.counts == counts(**{kind: 1, "missed": 0 if near else 1})
    assert found.right == 2
    if near:
        assert found.ap + found.costs[kind] == pytest.approx(1)
    assert found.costs["duplicate"] == 0


def test_a_second_detection_of_an_object_is_a_duplicate():
    found = errors(target("a", [A, B], [1, 1]), (A, 0.9, 1), ([1, 0, 11, 10], 0.8, 1), (B, 0.7, 1))
    assert found.counts == counts(duplicate=1)
    assert found.ap + found.costs["duplicate"] == pytest.approx(1)


def test_the_best_of_the_errors_at_an_object_mends_it_and_the_others_go():
    one = target("a", [A, B], [1, 1])
    found = errors(one, (B, 0.9, 1), (A, 0.8, 2), (NEAR_A, 0.7, 1))
    assert found.counts == counts(classification=1, localization=1)
    assert found.ap + found.costs["classification"] == pytest.approx(1)
    assert found.costs["localization"] == 0  # what is badly placed goes: A is worth its better one


def test_what_is_missed_altogether_costs_all_of_its_class():
    one = target("a", [A, B], [1, 2])
    found = errors(one, (B, 0.9, 2), (FAR, 0.8, 1))
    assert found.ap == 0.5
    assert found.costs["missed"] == 0.5
    nothing = errors(one)
    assert (nothing.ap, nothing.counts, nothing.costs["missed"]) == (0, counts(missed=2), 1)


def test_difficult_and_crowd_objects_are_passed_over_and_so_is_what_belongs_to_them():
    one = target("a", [A, [20, 0, 60, 40], C], [1, 1, 2], difficult=[True, False, False], crowd=[False, True, False])
    inside = [30, 10, 36, 16]  # of the crowd: its IoU is small
    found = errors(one, (A, 0.9, 1), (inside, 0.8, 1), (C, 0.7, 2), (inside, 0.6, 2))
    assert found.counts == counts(background=1)
    assert found.ap == 1


def test_an_image_without_objects_has_background_alone():
    found = errors(target("a", [], []), (A, 0.9, 1))
    assert (found.ap, found.counts, sum(found.costs.values())) == (0, counts(background=1), 0)


@pytest.mark.parametrize("seed", range(6))
def test_counts_add_up_and_mending_never_costs(seed):
    found, truth = scene(20, 3, seed, difficult=0.0)
    ours = count_errors(found, truth)
    wrong = sum(ours.counts[kind] for kind in KINDS if kind != "missed")
    assert ours.right + wrong == sum(len(one.labels) for one in found.values())
    assert ours.right + ours.counts["missed"] <= sum(len(one.labels) for one in truth.values())
    for kind in KINDS:
        assert 0 <= ours.costs[kind] <= 1 - ours.ap + 1e-12
        assert ours.costs[kind] > 0 or ours.counts[kind] < 3
    assert ours.false_negatives_cost >= ours.costs["missed"]
    assert ours.false_positives_cost >= max(ours.costs[kind] for kind in ("both", "duplicate", "background"))
    backwards = count_errors(dict(reversed(found.items())), truth)
    assert backwards == ours


def test_perfect_detections_have_no_error():
    _, truth = scene(10, 3, seed=1, crowd=0.1)
    found = {name: detections(one.boxes, torch.ones(len(one.labels)), one.labels) for name, one in truth.items()}
    ours = count_errors(found, truth)
    assert (ours.ap, sum(ours.counts.values()), sum(ours.costs.values())) == (1, 0, 0)


def test_confusion_of_foreground_and_background():
    one = target("a", [A, B, C], [1, 2, 3])
    found = detections([A, B, FAR, C], [0.9, 0.8, 0.7, 0.29], [1, 1, 2, 3])
    confused = count_confusion({"a": Outcome(found, {})}, {"a": one})
    assert confused == Confusion(0.3, 0.5, named=1, misnamed=1, missed=1, alarms=1)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_every_object_is_named_misnamed_or_missed(threshold):
    found, truth = scene(30, 3, seed=2)
    confused = count_confusion({name: Outcome(one, {}) for name, one in found.items()}, truth, threshold)
    assert confused.named + confused.misnamed + confused.missed == sum(len(o.learnable.labels) for o in truth.values())
