from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from robustdet.detection.boxes import decode, to_xyxy
from robustdet.detection.default_boxes import DefaultBoxes
from robustdet.detection.matching import match
from robustdet.types import Target
from tests.detection.conftest import make_target, random_target

SIZE = 96
BOXES = DefaultBoxes(scales=[0.2, 0.35, 0.5, 0.8], aspect_ratios=[[2], [2], [2]])(SIZE, [12, 6, 3])


def matched_slowly(target: Target) -> tuple[list[int], list[int]]:
    """Labels and objects of one image, box by box."""
    target = target.learnable
    objects = [-1] * len(BOXES)
    if len(target.boxes):
        overlap = box_iou(target.boxes / SIZE, to_xyxy(BOXES))
        for p in range(len(BOXES)):
            best = max(range(len(target.boxes)), key=lambda m: float(overlap[m, p]))
            if overlap[best, p] >= 0.5:
                objects[p] = best
        for m in range(len(target.boxes)):  # in order: a later object overwrites an earlier one's claim
            objects[max(range(len(BOXES)), key=lambda p: float(overlap[m, p]))] = m
    return [int(target.labels[m]) if m >= 0 else 0 for m in objects], objects


@pytest.fixture(scope="module")
def targets() -> list[Target]:
    generator = torch.Generator().manual_seed(3)
    drawn = [random_target(count, SIZE - 2.0, generator) for count in (1, 7, 30, 3)]
    return [
        *drawn,
        make_target([]),
        make_target([(10, 10, 40, 40), (8, 8, 44, 40), (50, 50, 90, 80)], difficult=[0]),
        make_target([(10, 10, 40, 40), (50, 50, 90, 80)], difficult=[0], crowd=[1]),
    ]


def test_a_batch_is_matched_as_a_slow_loop_does(targets: list[Target]) -> None:
    assignment = match(targets, BOXES, SIZE)
    for row, target in enumerate(targets):
        labels, objects = matched_slowly(target)
        assert assignment.labels[row].tolist() == labels
        assert assignment.objects[row].tolist() == objects


def test_regression_targets_decode_to_the_boxes_and_are_zero_elsewhere(targets: list[Target]) -> None:
    assignment = match(targets, BOXES, SIZE)
    decoded = decode(assignment.regression_targets, BOXES) * SIZE
    for row, target in enumerate(targets):
        positive = assignment.labels[row] > 0
        expected = target.learnable.boxes[assignment.objects[row, positive]]
        torch.testing.assert_close(decoded[row, positive], expected, atol=1e-3, rtol=1e-4)
        assert not assignment.regression_targets[row, ~positive].any()


def test_a_batch_is_matched_as_its_images_one_by_one(targets: list[Target]) -> None:
    together = match(targets, BOXES, SIZE)
    for row, target in enumerate(targets):
        alone = match([target], BOXES, SIZE)
        assert torch.equal(alone.labels[0], together.labels[row])
        assert torch.equal(alone.objects[0], together.objects[row])
        assert torch.equal(alone.regression_targets[0], together.regression_targets[row])


def test_every_object_has_a_default_box_even_far_below_the_threshold() -> None:
    assignment = match([make_target([(3, 3, 5, 5), (50, 1, 95, 4)])], BOXES, SIZE)
    assert assignment.labels.unique().tolist() == [0, 1, 2]


def test_of_two_objects_that_claim_one_box_the_later_has_it() -> None:
    box = (to_xyxy(BOXES)[500] * SIZE).tolist()
    assignment = match([make_target([box, box], labels=[5, 7])], BOXES, SIZE)
    assert assignment.labels[0, 500] == 7
    assert assignment.objects[0, 500] == 1


def test_without_any_object_all_is_background() -> None:
    assignment = match([make_target([]), make_target([])], BOXES, SIZE)
    assert not assignment.labels.any()
    assert (assignment.objects == -1).all()
    assert not assignment.regression_targets.any()


@pytest.mark.parametrize(
    "box", [(10.0, 10.0, 10.0, 20.0), (10.0, 30.0, 20.0, 20.0), (0.0, 0.0, float("nan"), 5.0), (0, 0, float("inf"), 5)]
)
def test_a_degenerate_box_is_named(box: tuple[float, ...]) -> None:
    good = make_target([(1, 1, 9, 9)], image_id="000001")
    bad = make_target([(1, 1, 9, 9), box], image_id="000002")
    with pytest.raises(ValueError, match=r"image '000002': box 1 is degenerate: \[.*\]; expected finite xyxy pixels"):
        match([good, bad], BOXES, SIZE)
