from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou, boxes

from robustdet.detection import post_processing
from robustdet.detection.boxes import decode, to_cxcywh
from robustdet.detection.post_processing import PostProcessing
from robustdet.types import Detections, RawPredictions
from tests.detection.conftest import random_target

SIZE = 96
P, C = 80, 3


def drawn(images: int = 3) -> RawPredictions:
    generator = torch.Generator().manual_seed(1)
    default_boxes = to_cxcywh(random_target(P, 90.0, generator).boxes / SIZE)
    return RawPredictions(
        cls_logits=3 * torch.randn(images, P, C + 1, generator=generator),
        bbox_regression=torch.randn(images, P, 4, generator=generator),
        default_boxes=default_boxes,
    )


def detected_slowly(raw: RawPredictions, row: int, settings: PostProcessing) -> list[tuple[float, int, list[float]]]:
    """(score, label, box) of one image, best first: greedy suppression, class by class."""
    scores = raw.cls_logits[row].softmax(-1)
    boxes = decode(raw.bbox_regression[row], raw.default_boxes) * SIZE
    kept = []
    for label in range(1, C + 1):
        ranked = sorted(range(P), key=lambda p: -float(scores[p, label]))[: settings.candidates_per_class]
        chosen: list[int] = []
        for p in ranked:
            if scores[p, label] > settings.score_threshold and all(
                box_iou(boxes[p : p + 1], boxes[q : q + 1]) <= settings.nms_threshold for q in chosen
            ):
                chosen.append(p)
        kept += [(float(scores[p, label]), label, boxes[p].tolist()) for p in chosen]
    return sorted(kept, key=lambda each: -each[0])[: settings.max_detections]


@pytest.mark.parametrize(
    "settings",
    [
        PostProcessing(),
        PostProcessing(max_detections=7),
        PostProcessing(candidates_per_class=9, max_detections=None),
        PostProcessing(score_threshold=0.6, nms_threshold=0.1),
    ],
)
def test_detections_are_those_of_a_slow_loop(settings: PostProcessing) -> None:
    raw = drawn()
    for row, found in enumerate(settings(raw, SIZE)):
        expected = detected_slowly(raw, row, settings)
        assert len(found.scores) == len(expected) > 0
        assert found.labels.tolist() == [label for _, label, _ in expected]
        torch.testing.assert_close(found.scores, torch.tensor([score for score, _, _ in expected]))
        torch.testing.assert_close(found.boxes, torch.tensor([box for _, _, box in expected]))


def test_a_batch_is_processed_as_its_images_one_by_one() -> None:
    raw = drawn()
    for row, together in enumerate(PostProcessing()(raw, SIZE)):
        one = RawPredictions(raw.cls_logits[row : row + 1], raw.bbox_regression[row : row + 1], raw.default_boxes)
        (alone,) = PostProcessing()(one, SIZE)
        assert torch.equal(alone.boxes, together.boxes)
        assert torch.equal(alone.scores, together.scores)
        assert torch.equal(alone.labels, together.labels)


def test_background_everywhere_is_no_detection() -> None:
    raw = drawn(1)
    raw.cls_logits[..., 0] += 100
    (found,) = PostProcessing()(raw, SIZE)
    assert isinstance(found, Detections)
    assert found.boxes.shape == (0, 4)
    assert found.labels.dtype == torch.int64


@pytest.mark.parametrize("field", ["cls_logits", "bbox_regression"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_image_whose_predictions_are_not_finite_has_no_detections_and_its_neighbours_keep_theirs(
    field: str, value: float
) -> None:
    whole = PostProcessing()(drawn(), SIZE)
    raw = drawn()
    getattr(raw, field)[1, 4, 2] = value
    for row, found in enumerate(PostProcessing()(raw, SIZE)):
        assert len(whole[row].labels) > 0
        if row == 1:
            assert found.boxes.shape == (0, 4)
        else:
            assert torch.equal(found.boxes, whole[row].boxes)
            assert torch.equal(found.scores, whole[row].scores)


def test_a_size_that_overflows_is_a_wrong_box_not_a_lost_image() -> None:
    raw = drawn()
    raw.bbox_regression[1, :, 2:] = 1e5
    found = PostProcessing()(raw, SIZE)[1]
    assert len(found.labels) > 0
    assert bool(found.boxes.isfinite().all())


@pytest.mark.parametrize(("near", "same"), [(post_processing.NEAR, True), (post_processing.FARTHEST, False)])
def test_a_box_far_away_takes_no_digits_of_others(near: float, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many boxes meet, a GPU moves classes aside by the farthest corner, and a CPU goes class by class."""
    generator = torch.Generator().manual_seed(0)
    default_boxes = to_cxcywh(random_target(3000, 90.0, generator).boxes / SIZE)
    default_boxes[0, 2:] = 1e5  # image widths
    raw = RawPredictions(torch.randn(1, 3000, 21, generator=generator), torch.zeros(1, 3000, 4), default_boxes)
    monkeypatch.setattr(post_processing, "NEAR", near)
    found = []
    for way in (boxes._batched_nms_vanilla, boxes._batched_nms_coordinate_trick):
        monkeypatch.setattr(post_processing, "batched_nms", way)
        (one,) = PostProcessing(max_detections=None)(raw, SIZE)
        found.append(set(map(tuple, torch.cat([one.boxes, one.labels[:, None]], dim=1).tolist())))
    assert (found[0] == found[1]) == same


def test_scores_carry_the_gradients_of_what_was_kept_and_of_nothing_else() -> None:
    raw = drawn(1)
    logits = raw.cls_logits.requires_grad_()
    (found,) = PostProcessing(score_threshold=0.5)(raw, SIZE)
    found.scores.sum().backward()
    scores = logits.detach().softmax(-1)[0, :, 1:]
    kept = torch.isin(scores, found.scores.detach()).any(dim=1)
    assert 0 < kept.sum() < P
    assert torch.equal(logits.grad[0].abs().sum(dim=1) > 0, kept)


def test_boxes_and_scores_have_one_type_whatever_that_of_the_predictions() -> None:
    """Suppression takes no mixture: a detector in double precision was refused by torchvision."""
    raw = drawn(1)
    (expected,) = PostProcessing()(raw, SIZE)
    doubled = RawPredictions(raw.cls_logits.double(), raw.bbox_regression.double(), raw.default_boxes.double())
    (found,) = PostProcessing()(doubled, SIZE)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores, expected.scores)
