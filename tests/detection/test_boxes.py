from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_convert, box_iou

from robustdet.detection.boxes import decode, encode, pairwise_iou, to_cxcywh, to_xyxy
from tests.detection.conftest import random_target


@pytest.fixture
def boxes() -> torch.Tensor:
    return random_target(40, 90.0, torch.Generator().manual_seed(0)).boxes


def test_conversions_are_torchvisions(boxes: torch.Tensor) -> None:
    torch.testing.assert_close(to_cxcywh(boxes), box_convert(boxes, "xyxy", "cxcywh"))
    torch.testing.assert_close(to_xyxy(to_cxcywh(boxes)), boxes)


def test_iou_is_torchvisions_also_for_a_batch(boxes: torch.Tensor) -> None:
    one, other = boxes.view(2, 20, 4), boxes.flip(0)[:7]
    expected = torch.stack([box_iou(each, other) for each in one])
    torch.testing.assert_close(pairwise_iou(one, other), expected)


def test_iou_of_boxes_without_extent_is_zero() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert pairwise_iou(point, point).item() == 0


def test_offsets_follow_their_definition() -> None:
    default_box = torch.tensor([[10.0, 20.0, 8.0, 4.0]])
    box = to_xyxy(torch.tensor([[12.0, 19.0, 16.0, 4.0]]))
    expected = [[2 / 8 / 0.1, -1 / 4 / 0.1, 0.6931472 / 0.2, 0]]
    torch.testing.assert_close(encode(box, default_box), torch.tensor(expected))


def test_decode_inverts_encode(boxes: torch.Tensor) -> None:
    boxes = boxes.double()
    default_boxes = to_cxcywh(boxes.flip(0))
    torch.testing.assert_close(decode(encode(boxes, default_boxes), default_boxes), boxes)
    batch = boxes.expand(3, -1, -1)
    torch.testing.assert_close(decode(encode(batch, default_boxes), default_boxes), batch)
