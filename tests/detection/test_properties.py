"""Laws of boxes and of matching, for whatever boxes hypothesis draws: slivers, copies, boxes over the whole image."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from robustdet.detection.boxes import area, decode, encode, pairwise_iou, to_cxcywh, to_xyxy
from robustdet.detection.default_boxes import DefaultBoxes
from robustdet.detection.matching import POSITIVE_IOU, match
from robustdet.types import Target
from tests.detection.conftest import make_target

SIZE = 96
BOXES = DefaultBoxes(scales=[0.2, 0.35, 0.5, 0.8], aspect_ratios=[[2], [2], [2]])(SIZE, [12, 6, 3])
QUICKLY = settings(max_examples=60, deadline=None)


@st.composite
def boxes(draw: st.DrawFn) -> list[float]:
    """xyxy in pixels, a 128th of a pixel wide at least; many lie on whole pixels, so that overlaps are equal."""
    values = st.one_of(st.integers(0, SIZE - 1).map(float), st.floats(0, SIZE - 1, width=32, allow_subnormal=False))
    left, top = draw(values), draw(values)
    extents = st.one_of(st.integers(1, SIZE).map(float), st.floats(1 / 128, SIZE, width=32, allow_subnormal=False))
    right, bottom = (min(low + draw(extents), float(SIZE)) for low in (left, top))
    return [left, top, right, bottom]


@st.composite
def targets(draw: st.DrawFn) -> Target:
    drawn = draw(st.lists(boxes(), max_size=6))
    if drawn and draw(st.booleans()):
        drawn.append(drawn[0])  # two objects in one place
    indices = st.lists(st.integers(0, 6), max_size=3)
    return make_target(drawn, difficult=draw(indices), crowd=draw(indices))


@given(st.lists(boxes(), min_size=1, max_size=6), st.lists(boxes(), min_size=1, max_size=6))
@QUICKLY
def test_iou_is_torchvisions_symmetric_and_a_share(one: list[list[float]], other: list[list[float]]) -> None:
    first, second = torch.tensor(one), torch.tensor(other)
    iou = pairwise_iou(first, second)
    torch.testing.assert_close(iou, box_iou(first, second), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(iou, pairwise_iou(second, first).mT)
    assert iou.min() >= 0
    assert iou.max() <= 1 + 1e-6
    torch.testing.assert_close(pairwise_iou(first, first).diagonal(), torch.ones(len(first)))
    ratio = area(first)[:, None] / area(second)
    assert (iou <= torch.minimum(ratio, 1 / ratio) * (1 + 1e-5)).all()  # a part cannot be more of the whole


@given(st.lists(boxes(), min_size=1, max_size=6))
@QUICKLY
def test_what_is_encoded_for_any_default_box_decodes_to_the_box(drawn: list[list[float]]) -> None:
    xyxy = torch.tensor(drawn, dtype=torch.float64) / SIZE
    torch.testing.assert_close(to_xyxy(to_cxcywh(xyxy)), xyxy)
    for default_box in BOXES.double()[:: len(BOXES) // 12, None]:
        torch.testing.assert_close(decode(encode(xyxy, default_box), default_box), xyxy, atol=1e-9, rtol=1e-9)


@given(st.lists(targets(), min_size=1, max_size=3))
@QUICKLY
def test_matching_keeps_its_promises(batch: list[Target]) -> None:
    assignment = match(batch, BOXES, SIZE)
    assert bool(assignment.regression_targets.isfinite().all())
    for row, target in enumerate(batch):
        objects, positive = assignment.objects[row], assignment.labels[row] > 0
        learnable = target.learnable
        assert torch.equal(positive, objects >= 0)
        if not len(learnable.boxes):
            assert not positive.any()
            continue
        overlap = pairwise_iou(learnable.boxes / SIZE, to_xyxy(BOXES))
        best_of_object, best_of_box = overlap.amax(1), overlap.amax(0)
        assert (best_of_box[~positive] < POSITIVE_IOU).all()
        own = overlap[objects[positive], positive.nonzero()[:, 0]]
        claimed = own == best_of_object[objects[positive]]
        by_overlap = (own >= POSITIVE_IOU) & (own == best_of_box[positive])
        assert (claimed | by_overlap).all()
        assert torch.equal(assignment.labels[row, positive], learnable.labels[objects[positive]])
        claims = overlap.argmax(1)  # every object has a box, unless a later one claims the same
        for number, claim in enumerate(claims.tolist()):
            assert int(objects[claim]) == max(n for n, other in enumerate(claims.tolist()) if other == claim) >= number


@given(st.lists(targets(), min_size=2, max_size=3))
@QUICKLY
def test_an_image_is_matched_alone_as_in_a_batch_and_without_what_is_no_target(batch: list[Target]) -> None:
    together = match(batch, BOXES, SIZE)
    for row, target in enumerate(batch):
        for same in (target, target.learnable):
            alone = match([same], BOXES, SIZE)
            assert torch.equal(alone.labels[0], together.labels[row])
            assert torch.equal(alone.objects[0], together.objects[row])
            torch.testing.assert_close(alone.regression_targets[0], together.regression_targets[row])
