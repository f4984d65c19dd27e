"""Does a detector keep its promises? Looked at on the first batch, before hours of attacks: somebody else's may not.

What is wrong is named with what was expected and, where it can be seen, what it looks like instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from robustdet.attacks.victim import DetachedError, DetectorVictim, input_gradient
from robustdet.errors import InputError
from robustdet.types import Batch, Detector, HasLosses, Target

log = logging.getLogger(__name__)

FRAME = "expected xyxy in pixels of the input, upper edge exclusive"
FRACTION = 2.0  # no set of boxes that end below this is one in pixels
FOUND = 0.5  # mean IoU with the objects, from which on another reading of the boxes than as xyxy may be named


def require_promises(detector: Detector, batch: Batch) -> None:
    """Raises InputError for detections of another form, frame or labels, for NaN among them, and for losses of another
    shape. Losses that are not finite, or have no gradient to the pixels, are warned of: they are measured and flagged.
    """
    name = getattr(detector, "name", type(detector).__name__)
    images = batch.images.clone()
    with torch.no_grad():
        found = detector.detect(detector(images))
    if not torch.equal(images, batch.images):
        raise InputError(f"{name}: it writes into the images that it is given, expected it to leave them as they are")
    if not isinstance(found, Sequence) or len(found) != len(batch):
        got = f"{len(found)} of them" if isinstance(found, Sequence) else f"a {type(found).__name__}"
        raise InputError(
            f"{name}.detect: expected a list of Detections, one for each of {len(batch)} images, got {got}"
        )
    for one, target in zip(found, batch.targets, strict=True):
        _require_form(one, f"{name}, image {target.image_id!r}", detector.num_classes)
    _require_frame([one.boxes for one in found], batch.targets, batch.images.shape[-1], name)
    if isinstance(detector, HasLosses):
        _look_at_losses(detector, batch, name)


def _require_form(found: Any, where: str, num_classes: int) -> None:
    """Raises InputError naming the field of an image's detections that is not as `Detections` has it."""
    count = len(found.scores)
    for field, shape in (("boxes", (count, 4)), ("scores", (count,)), ("labels", (count,))):
        values = getattr(found, field)
        if tuple(values.shape) != shape:
            raise InputError(f"{where}: {field} have shape {list(values.shape)}, expected {list(shape)}")
        if not bool(values.isfinite().all()):
            raise InputError(f"{where}: {field} have NaN or infinity, expected finite values")
    if not count:
        return
    low, high = found.labels.min().item(), found.labels.max().item()
    if found.labels.is_floating_point() or low < 1 or high > num_classes:
        hint = "it counts from 0" if low == 0 else "COCO's ids have gaps: number the names 1 to C" if high <= 90 else ""
        raise InputError(
            f"{where}: labels from {low:g} to {high:g}, expected whole numbers from 1 to {num_classes}"
            f"{f' (looks like {hint})' if low == 0 else f' ({hint})' if hint else ''}"
        )
    low, high = found.scores.min().item(), found.scores.max().item()
    if low < 0 or high > 1:
        hint = "percent" if low >= 0 and high <= 100 else "logits: take their sigmoid or softmax"
        raise InputError(f"{where}: scores from {low:.3g} to {high:.3g}, expected [0, 1] (looks like {hint})")


def _require_frame(of_images: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[Target], size: int, name: str) -> None:
    """Raises InputError where the boxes of all images cannot be xyxy pixels of an input of ``size``.

    Where they can, but are hardly meant so, is warned of: a weak detector's look odd, too.
    """
    boxes = torch.cat(list(of_images)).float()
    if not len(boxes):
        return
    if 0 < boxes.abs().max() <= FRACTION < size / 8:
        raise InputError(
            f"{name}: boxes go up to {boxes.max().item():.3g} in images of {size} pixels, {FRAME} (looks like "
            f"fractions of the image: times {size})"
        )
    turned, better = (boxes[:, 2:] < boxes[:, :2]).any(dim=1), _better_reading(of_images, targets)
    if turned.any():
        example = [round(edge, 2) for edge in boxes[turned][0].tolist()]
        raise InputError(
            f"{name}: box {example} ends before it begins, as {int(turned.sum())} of {len(boxes)} do, {FRAME} (looks "
            f"like {better or 'xywh'})"
        )
    if better is not None:
        log.warning("%s: its boxes fit the objects better when read as %s, %s", name, better, FRAME)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = ((centre < 0) | (centre > size)).any(dim=1).float().mean().item()
    if outside > 0.5:
        log.warning(
            "%s: %.0f %% of its boxes have their middle outside the image of %d pixels, %s (looks like pixels of "
            "another size, the file's perhaps)", name, 100 * outside, size, FRAME,
        )  # fmt: skip


def _better_reading(of_images: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[Target]) -> str | None:
    """Another order of the four numbers, in which the boxes find the objects clearly better."""
    orders = {
        "xywh": lambda boxes: box_convert(boxes, "xywh", "xyxy"),
        "cxcywh": lambda boxes: box_convert(boxes, "cxcywh", "xyxy"),
        "yxyx": lambda boxes: boxes[:, [1, 0, 3, 2]],
    }
    as_it_is = _fit(of_images, targets)
    fits = {name: _fit([read(boxes) for boxes in of_images], targets) for name, read in orders.items()}
    best = max(fits, key=lambda name: fits[name])
    return best if fits[best] > max(FOUND, 1.5 * as_it_is) else None


def _fit(of_images: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[Target]) -> float:
    """Mean over all objects of the largest IoU that a box of the image has with it."""
    best = [
        box_iou(target.boxes.to(boxes), boxes).nan_to_num().clamp(0, 1).amax(dim=1)
        for boxes, target in zip(of_images, targets, strict=True)
        if len(boxes) and len(target.boxes)
    ]
    return torch.cat(best).mean().item() if best else 0.0


def _look_at_losses(detector: HasLosses, batch: Batch, name: str) -> None:
    with DetectorVictim(detector).borrow(batch.targets) as model:
        pixels = batch.images.detach().requires_grad_()
        losses = model.losses(pixels)
        for field in ("classification", "localization", "num_positives"):
            shape = tuple(getattr(losses, field).shape)
            if shape != (len(batch),):
                raise InputError(
                    f"{name}.losses: {field} has shape {list(shape)}, expected a value an image: [{len(batch)}]"
                )
        if not bool(losses.total.isfinite().all()):
            log.warning("%s: its losses on the first images are not finite; expected numbers. This is flagged", name)
        try:
            input_gradient(losses.total, pixels)
        except DetachedError:
            log.warning(
                "%s: its losses have no gradient to the pixels, expected differentiable operations all the way (looks "
                "like torch.no_grad, detach or NumPy in between). Attacks by gradients find nothing, which is flagged; "
                "without `losses` it is attacked as a black box", name,
            )  # fmt: skip
