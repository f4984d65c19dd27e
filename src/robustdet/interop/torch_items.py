"""One item of anybody's torch data set: an image of ours and its objects, or what is wrong with it and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from robustdet.data.annotation import TOLERANCE
from robustdet.data.dataset import scale
from robustdet.data.pixels import as_shown, require_mode, stretched
from robustdet.errors import InputError
from robustdet.types import Target

Sample = tuple[Float32[Tensor, "3 S S"], Target]
FRAME = "expected xyxy in pixels of the image, upper edge exclusive"


def sample(item: Any, where: str, name: str, side: int, classes: Sequence[str]) -> Sample:
    """A data set's ``item`` as an image [3, S, S] in [0, 1] and its objects, in pixels of that.

    ``name`` is what the image is called where it has no id. Raises InputError that names ``where``, the key, what it
    holds and what was expected.
    """
    if not (isinstance(item, tuple | list) and len(item) == 2):
        raise InputError(f"{where}: expected (image, {{boxes, labels}}), got {_kind(item)}")
    image, target = item
    pixels = _pixels(image, where)
    size = pixels.shape[:2]
    if not isinstance(target, Mapping):
        hint = "torchvision.datasets.wrap_dataset_for_transforms_v2 makes one of torchvision's COCO and VOC"
        raise InputError(f"{where}: expected a dictionary of boxes and labels, got {_kind(target)} ({hint})")
    missing = [key for key in ("boxes", "labels") if key not in target]
    if missing:
        raise InputError(f"{where}: no {' and no '.join(missing)} among {', '.join(map(str, target)) or 'nothing'}")
    boxes = _boxes(target["boxes"], where, size)
    labels = _labels(target["labels"], where, len(boxes), classes)
    small = torch.from_numpy(stretched(pixels, side).transpose(2, 0, 1).copy())
    return small.float().div(255) if small.dtype == torch.uint8 else small, Target(
        boxes=boxes * torch.from_numpy(scale(size, (side, side))),
        labels=labels,
        difficult=_marks(target, "difficult", where, len(boxes)),
        crowd=_marks(target, "iscrowd", where, len(boxes)),
        image_id=_name(target.get("image_id", name), where),
        original_size=size,
    )


def _pixels(image: Any, where: str) -> UInt8[np.ndarray, "H W 3"] | Float32[np.ndarray, "H W 3"]:
    if isinstance(image, Image.Image):
        require_mode(Path(where), image)
        return np.array(as_shown(Path(where), image))
    expected = "expected a float tensor [3, H, W] in [0, 1], a uint8 tensor or a PIL image"
    if not isinstance(image, Tensor):
        hint = " (torchvision.transforms.functional.to_tensor makes one)" if isinstance(image, np.ndarray) else ""
        raise InputError(f"{where}: its image is {_kind(image)}, {expected}{hint}")
    shape = list(image.shape)
    if len(shape) != 3 or shape[0] != 3 or 0 in shape:
        hint = " (looks like [H, W, 3]: permute(2, 0, 1))" if len(shape) == 3 and shape[2] == 3 else ""
        raise InputError(f"{where}: its image has shape {shape}, {expected}{hint}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise InputError(f"{where}: its image is of {image.dtype}, {expected}")
    image = image.detach().cpu()
    if image.dtype != torch.uint8:
        image = image.float()
        low, high = image.min().item(), image.max().item()
        if not (low >= 0 and high <= 1):
            hint = "as if it had NaN or infinity" if not bool(image.isfinite().all()) else ""
            hint = hint or ("normalised by a mean, which is the detector's affair" if low < 0 else "")
            hint = hint or ("like 0..255: divide by 255" if high > 2 else "interpolated: clamp it")
            found = f"its image has values from {low:.3g} to {high:.3g}"
            raise InputError(f"{where}: {found}, {expected} (looks {hint})")
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))


def _boxes(given: Any, where: str, size: tuple[int, int]) -> Float32[Tensor, "N 4"]:
    """Cut to the image where they leave it by a pixel at most."""
    if isinstance(given, tv_tensors.BoundingBoxes) and given.format != tv_tensors.BoundingBoxFormat.XYXY:
        raise InputError(f"{where}: boxes are {given.format.value}, {FRAME}")
    boxes = _tensor(given, where, "boxes").float()
    boxes = boxes.reshape(0, 4) if boxes.numel() == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"{where}: boxes have shape {list(boxes.shape)}, expected [N, 4]")
    if not len(boxes):
        return boxes
    height, width = size
    edges = torch.tensor([width, height, width, height])
    if not bool(boxes.isfinite().all()):
        raise InputError(f"{where}: boxes have NaN or infinity, {FRAME}")
    if bool((boxes.abs() <= 1).all()) and min(size) > 8:
        raise _wrong_box(boxes[0], where, size, "fractions of the image: times its width and height")
    turned = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    outside = ((boxes < -TOLERANCE) | (boxes > edges + TOLERANCE)).any(dim=1)
    if turned.any():
        as_xywh = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        fits = bool((boxes[:, 2:] > 0).all() and (as_xywh <= edges + TOLERANCE).all())
        raise _wrong_box(boxes[turned][0], where, size, "xywh" if fits else "an object without area: leave it out")
    if outside.any():
        raise _wrong_box(boxes[outside][0], where, size, "pixels of the image before it was resized")
    boxes = torch.minimum(boxes.clamp(min=0), edges)
    if (gone := (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)).any():
        raise _wrong_box(boxes[gone][0], where, size, "an object outside the image: leave it out")
    return boxes


def _wrong_box(box: Float32[Tensor, "4"], where: str, size: tuple[int, int], looks_like: str) -> InputError:
    values = [round(edge, 3) for edge in box.tolist()]
    return InputError(
        f"{where}: boxes have {values} in an image of {size[1]} x {size[0]} pixels, {FRAME} (looks like {looks_like})"
    )


def _labels(given: Any, where: str, count: int, classes: Sequence[str]) -> Int64[Tensor, "N"]:
    labels = _tensor(given, where, "labels")
    if list(labels.shape) != [count]:
        raise InputError(f"{where}: labels have shape {list(labels.shape)}, expected [{count}], one for each box")
    if not count:
        return labels.long()
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"{where}: labels are of {labels.dtype}, expected whole numbers from 1 to {len(classes)}")
    labels = labels.long()  # unsigned ones know no order
    low, high = int(labels.min()), int(labels.max())
    if low < 1 or high > len(classes):
        hint = " (looks like it counts from 0, which is the background here: add 1)" if low == 0 else ""
        names = ", ".join(f"{label}: {name}" for label, name in enumerate(classes[:3], 1))
        more = ", …" if len(classes) > 3 else ""
        raise InputError(
            f"{where}: labels from {low} to {high}, expected whole numbers from 1 to {len(classes)} "
            f"({names}{more}){hint}"
        )
    return labels


def _marks(target: Mapping[str, Any], key: str, where: str, count: int) -> Bool[Tensor, "N"]:
    if target.get(key) is None:
        return torch.zeros(count, dtype=torch.bool)
    marks = _tensor(target[key], where, key)
    if list(marks.shape) != [count] or not bool(((marks == 0) | (marks == 1)).all()):
        raise InputError(f"{where}: {key} is {marks.tolist()}, expected 0 or 1 for each of {count} boxes")
    return marks.bool()


def _name(given: Any, where: str) -> str:
    value = given.tolist() if isinstance(given, Tensor | np.ndarray) else given
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(value, bool) or not isinstance(value, int | str | np.integer):
        raise InputError(f"{where}: image_id is {value!r}, expected a number or a text")
    return str(value)


def _tensor(values: Any, where: str, key: str) -> Tensor:
    """Of tensors, arrays and lists of either."""
    rows = isinstance(values, list | tuple) and bool(values) and all(isinstance(one, Tensor) for one in values)
    try:
        made = torch.stack(list(values)) if rows else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {key} cannot be made a tensor of: {error}") from error
    if made.is_complex():
        raise InputError(f"{where}: {key} are of {made.dtype}, expected real numbers")
    return made.detach().cpu().as_subclass(Tensor)


def _kind(thing: Any) -> str:
    length = f" of {len(thing)}" if isinstance(thing, tuple | list) else ""
    return f"a {type(thing).__name__}{length}"
