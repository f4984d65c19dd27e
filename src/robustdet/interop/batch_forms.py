"""A training batch as somebody's own loop has it, read as images with targets and put together again with more of them.

Three forms are known: `Batch`; (images, targets) as torchvision's references collate them, images of several sizes; and
the same with images in one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustdet.errors import InputError
from robustdet.types import Batch, Target

EXPECTED = (
    "a pair (images, targets) as torchvision's references have it: images a list of [3, H, W] or a tensor "
    "[B, 3, H, W], RGB floats in [0, 1]; targets a list of {'boxes': [N, 4] xyxy pixels, 'labels': [N]}; "
    "or a robustdet.types.Batch"
)


def images_and_targets(batch: Any) -> tuple[list[Tensor], list[Target]]:
    """Of every image, [3, H, W] in [0, 1], and what it shows.

    ``iscrowd`` counts as `Target.crowd`. A target without ``image_id`` has the empty one. Raises InputError that names
    what is not of a known form, and what was expected.
    """
    if isinstance(batch, Batch):
        return list(batch.images), batch.targets
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        of = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise InputError(f"the batch is a {type(batch).__name__}{of}; expected {EXPECTED}")
    images, targets = batch
    if not isinstance(images, Tensor | tuple | list) or not isinstance(targets, tuple | list):
        raise InputError(f"the batch is a {type(images).__name__} and a {type(targets).__name__}; expected {EXPECTED}")
    if len(images) != len(targets):
        raise InputError(f"the batch has {len(images)} images and {len(targets)} targets; expected {EXPECTED}")
    for place, (image, target) in enumerate(zip(images, targets, strict=True)):
        _require_image(image, place)
        _require_target(target, place)
    return list(images), [_read(target, image) for image, target in zip(images, targets, strict=True)]


def with_adversarial(batch: Any, adversarial: Sequence[Tensor], keep_clean: bool) -> Any:
    """The batch in its own form, with the attacked images behind the clean ones, or in their place.

    Targets are the same objects; dictionaries are copied, so that a step may add to them.
    """
    clean = list(adversarial)[:0] if not keep_clean else _images(batch)
    images = [*clean, *adversarial]
    targets = batch.targets if isinstance(batch, Batch) else batch[1]
    more = [dict(target) if isinstance(target, Mapping) else target for target in targets]
    targets = [*(targets if keep_clean else []), *more]
    if isinstance(batch, Batch):
        return Batch(torch.stack(images), targets, batch.micro_batch)
    together = torch.stack(images) if isinstance(batch[0], Tensor) else type(batch[0])(images)
    pair = [together, type(batch[1])(targets)]
    return batch._make(pair) if hasattr(batch, "_make") else type(batch)(pair)  # a named tuple's own way


def _images(batch: Any) -> list[Tensor]:
    return list(batch.images if isinstance(batch, Batch) else batch[0])


def _require_image(image: Any, place: int) -> None:
    if not isinstance(image, Tensor):
        raise InputError(f"image {place} of the batch is a {type(image).__name__}; expected {EXPECTED}")
    if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
        shape, kind = list(image.shape), str(image.dtype).removeprefix("torch.")
        raise InputError(f"image {place} of the batch is {kind} {shape}; expected {EXPECTED}")
    low, high = image.aminmax()
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"image {place} of the batch has values from {low.item():g} to {high.item():g}; expected RGB in [0, 1]: an "
            "attack's ε is a part of that range, so a detector normalises inside"
        )


def _require_target(target: Any, place: int) -> None:
    if isinstance(target, Target):
        return
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= set(target):
        keys = f" with {', '.join(map(str, target))}" if isinstance(target, Mapping) else ""
        raise InputError(f"target {place} of the batch is a {type(target).__name__}{keys}; expected {EXPECTED}")
    boxes, labels, crowd = target["boxes"], target["labels"], target.get("iscrowd")
    given = {"boxes": boxes, "labels": labels} | ({} if crowd is None else {"iscrowd": crowd})
    for key, value in given.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{key} of target {place} of the batch are a {type(value).__name__}, not a tensor; expected {EXPECTED}"
            )
    if not of_one_length(boxes, labels) or (crowd is not None and crowd.shape != labels.shape):
        shapes = " and ".join(f"{key} {list(value.shape)}" for key, value in given.items())
        raise InputError(f"target {place} of the batch has {shapes}; expected {EXPECTED}")


def of_one_length(boxes: Tensor, labels: Tensor) -> bool:
    """Whether they are [N, 4] and [N]."""
    return boxes.ndim == 2 and boxes.shape[1] == 4 and labels.shape == boxes.shape[:1]


def _read(target: Any, image: Tensor) -> Target:
    if isinstance(target, Target):
        return target
    boxes, labels = target["boxes"], target["labels"]
    no = torch.zeros_like(labels, dtype=torch.bool)
    crowd = no if target.get("iscrowd") is None else target["iscrowd"].bool()
    height, width = image.shape[1:]
    return Target(boxes, labels, no, crowd, _text(target.get("image_id", "")), (height, width))


def _text(image_id: Any) -> str:
    return str(image_id.item() if isinstance(image_id, Tensor) and image_id.numel() == 1 else image_id)
