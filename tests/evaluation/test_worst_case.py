import math

import pytest

from robustdet.evaluation.average_precision import pooled_average_precision, voc_average_precision
from robustdet.evaluation.store import Outcome
from robustdet.evaluation.worst_case import harm, inside, shared_radius, worst_outcomes
from tests.evaluation.scenes import detections, scene, target

BOX, ELSEWHERE = [0, 0, 10, 10], [30, 30, 40, 40]
TARGET = target("a", [BOX], [1])


def outcome(*found, loss=1.0, seconds=1.0):
    boxes, scores, labels = zip(*found, strict=True) if found else ([], [], [])
    measures = {"classification": float(loss), "localization": 0.0, "seconds": float(seconds)}
    return Outcome(detections(list(boxes), list(scores), list(labels)), measures)


RIGHT = (BOX, 0.9, 1)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (outcome(RIGHT, loss=9), outcome(loss=1)),  # a lost object counts more than any loss
        (outcome(RIGHT), outcome(RIGHT, (ELSEWHERE, 0.95, 2))),  # of another class, but above the right one
        (outcome(), outcome((ELSEWHERE, 0.1, 1))),  # both lose the object, one adds a false alarm
        (outcome((ELSEWHERE, 0.1, 1)), outcome((ELSEWHERE, 0.2, 1))),
        (outcome(RIGHT, loss=1), outcome(RIGHT, loss=2)),
        (outcome(RIGHT, loss=math.nan), outcome(RIGHT, loss=0)),
    ],
)
def test_what_hurts_more(less, more):
    assert harm(less, TARGET) < harm(more, TARGET)
    assert worst_outcomes({"x": {"a": less}, "y": {"a": more}}, {"a": TARGET})[1] == {"x": 0, "y": 1}


def test_an_image_without_objects_is_hurt_by_false_alarms():
    empty = target("a", [], [])
    assert harm(outcome(), empty) < harm(outcome((BOX, 0.1, 1)), empty)


def test_the_choice_is_made_image_by_image_and_counted():
    targets = {name: target(name, [BOX], [1]) for name in "abc"}
    clean = {name: outcome(RIGHT) for name in "abc"}
    x = {"a": outcome(), "b": outcome(RIGHT, loss=2), "c": outcome(RIGHT, loss=0)}
    y = {"b": outcome(), "a": outcome(RIGHT), "c": outcome(RIGHT, loss=0.5), "d": outcome()}
    worst, chosen = worst_outcomes({"clean": clean, "x": x, "y": y}, targets)
    assert chosen == {"clean": 1, "x": 1, "y": 1}
    assert [len(worst[name].detections.labels) for name in "abc"] == [0, 0, 1]
    assert worst["a"].measures["seconds"] == 3.0


def test_which_attacks_share_a_ball():
    epsilons = {"clean": None, "a": 8 / 255, "b": 8 / 255, "small": 4 / 255, "large": 16 / 255, "unbounded": None}
    radius = shared_radius(epsilons)
    assert radius == 8 / 255
    assert inside(epsilons, radius) == ["a", "b", "small"]
    assert shared_radius({"clean": None}) is None


def test_pooled_ap_is_the_ap_of_one_class_that_they_all_are():
    for name, found in scene(40, 1, seed=3)[0].items():
        one = scene(40, 1, seed=3)[1][name]
        if not (~one.difficult).any():
            assert pooled_average_precision(found, one) == 1.0
            continue
        expected = voc_average_precision({name: found}, {name: one}, 1, rule="area").mean
        assert pooled_average_precision(found, one) == pytest.approx(expected)
