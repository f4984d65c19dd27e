"""Which object each default box answers for (SSD, section 2.2): the whole batch at once, without a loop over boxes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from robustdet.detection.boxes import encode, pairwise_iou, to_xyxy
from robustdet.errors import InputError
from robustdet.types import Assignment, Targets, moved

POSITIVE_IOU = 0.5


def match(targets: Targets, default_boxes: Float[Tensor, "P 4"], input_size: int) -> Assignment:
    """Assign the learnable objects of each image (xyxy pixels of an image of ``input_size``) to default boxes.

    A default box answers for the object it overlaps most if their IoU is at least 0.5. Besides, every object claims
    the default box that overlaps it most, whatever their IoU; when two claim the same one, the later object has it.
    An image without learnable objects is all background. Raises ValueError on boxes without a positive extent.
    """
    check_boxes(targets)
    boxes, labels, learnable = pad(targets, default_boxes, input_size)
    # Rows of objects that are no targets lose against every other row, and never reach the IoU of a positive.
    overlap = pairwise_iou(boxes, to_xyxy(default_boxes)).masked_fill(~learnable.unsqueeze(-1), -1)
    # A claim outranks any IoU, and a later claim an earlier one: then one maximum settles both rules.
    later = torch.arange(labels.shape[1], dtype=overlap.dtype, device=labels.device)
    claim = torch.where(learnable, 2 + later, -1)
    claimed = overlap.argmax(dim=2, keepdim=True)
    overlap = overlap.scatter(2, claimed, claim.unsqueeze(-1))
    best, slots = overlap.max(dim=1)
    positive = best >= POSITIVE_IOU

    offsets = encode(boxes.gather(1, slots.unsqueeze(-1).expand(-1, -1, 4)), default_boxes)
    return Assignment(
        labels=torch.where(positive, labels.gather(1, slots), 0),
        objects=torch.where(positive, (learnable.cumsum(1) - 1).gather(1, slots), -1),
        regression_targets=torch.where(positive.unsqueeze(-1), offsets, 0),
    )


def pad(
    targets: Targets, like: Tensor, unit: int
) -> tuple[Float[Tensor, "B M 4"], Int[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """Boxes, labels and which of them are learnable, every image filled up to the same number M >= 1 of slots.

    Boxes are in units of so many pixels: divided in main memory, for a GPU multiplies by the inverse instead, and
    boxes that overlap two default boxes alike would fall to another one.

    Of the type of ``like`` and where that lies: all travels there once, in one piece. Objects that are not learnable
    keep their slot: selecting by a mask would make a GPU wait for its host.
    """
    counts = [len(target.boxes) for target in targets]
    boxes, labels, difficult, crowd = (
        torch.cat([getattr(target, field) for target in targets]) for field in ("boxes", "labels", "difficult", "crowd")
    )
    # As precise as they will be there, and more than bfloat16, of a label's values, would keep.
    exact = torch.promote_types(torch.promote_types(boxes.dtype, like.dtype), torch.float32)
    rows = torch.cat([boxes.to(exact) / unit, torch.stack([labels, ~(difficult | crowd)], dim=1)], dim=1)
    if not any(counts):
        counts, rows = [1] * len(counts), rows.new_zeros(len(counts), 6)
    padded = moved(pad_sequence(rows.split(counts), batch_first=True), like.device)
    return padded[..., :4].to(like), padded[..., 4].long(), padded[..., 5] > 0


def check_boxes(targets: Targets) -> None:
    """Raise ValueError on the first box that is not finite or has no positive width and height."""
    extents = torch.cat([target.boxes[:, 2:] - target.boxes[:, :2] for target in targets])
    if bool((torch.isfinite(extents) & (extents > 0)).all()):  # objects lie in main memory: nobody waits
        return
    for target in targets:
        for index, (left, top, right, bottom) in enumerate(target.boxes.tolist()):
            if not (0 < right - left < float("inf") and 0 < bottom - top < float("inf")):
                raise InputError(
                    f"image {target.image_id!r}: box {index} is degenerate: {[left, top, right, bottom]}; "
                    "expected finite xyxy pixels with right > left and bottom > top"
                )
