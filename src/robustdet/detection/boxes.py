"""Boxes: two ways to write them, their overlap, and SSD's offsets to default boxes.

``xyxy`` is (left, top, right, bottom), ``cxcywh`` is (centre x, centre y, width, height); the unit is the caller's,
pixels or fractions of the image, as long as both arguments share it. All functions broadcast over leading dimensions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# SSD, section 2.2 (its published code): offsets are divided by these, for the centre and for the size.
CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2


def to_xyxy(cxcywh: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    centre, half = cxcywh[..., :2], cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def to_cxcywh(xyxy: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    low, high = xyxy[..., :2], xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(xyxy: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape"]:
    """Width x height; a box without extent has none, one turned inside out neither."""
    width, height = (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def pairwise_iou(one: Float[Tensor, "... M 4"], other: Float[Tensor, "... P 4"]) -> Float[Tensor, "... M P"]:
    """Intersection over union of every xyxy box of ``one`` with every one of ``other``; 0 where both are empty."""
    one, other = one.unsqueeze(-2), other.unsqueeze(-3)
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    intersection = width * height
    union = area(one) + area(other) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def encode(xyxy: Float[Tensor, "*shape 4"], default_boxes: Float[Tensor, "P 4"]) -> Float[Tensor, "*shape 4"]:
    """SSD's regression targets (Eq. 2 there) of the xyxy box that each cxcywh default box answers for."""
    cxcywh = to_cxcywh(xyxy)
    centre = (cxcywh[..., :2] - default_boxes[..., :2]) / (CENTRE_VARIANCE * default_boxes[..., 2:])
    size = torch.log(cxcywh[..., 2:] / default_boxes[..., 2:]) / SIZE_VARIANCE
    return torch.cat([centre, size], dim=-1)


def decode(offsets: Float[Tensor, "*shape 4"], default_boxes: Float[Tensor, "P 4"]) -> Float[Tensor, "*shape 4"]:
    """The xyxy boxes that offsets to cxcywh default boxes mean: the inverse of :func:`encode`."""
    centre = default_boxes[..., :2] + offsets[..., :2] * CENTRE_VARIANCE * default_boxes[..., 2:]
    size = default_boxes[..., 2:] * torch.exp(offsets[..., 2:] * SIZE_VARIANCE)
    return to_xyxy(torch.cat([centre, size], dim=-1))
