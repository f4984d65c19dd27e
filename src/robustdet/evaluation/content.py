"""What an image is made of: the part of a stored outcome's identity that a repaired annotation changes."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float
from torch import Tensor

from robustdet.types import Batch, Target


def contents(batch: Batch) -> list[str]:
    """A hex digest of every image: its id, its size in the file, its objects with their marks, and its pixels.

    The pixels and boxes are those handed to the detector, so that a changed file, another way to decode or to resize
    it and another frame all count; where the file lies, and what it is called, do not.
    """
    return [_content(image, target) for image, target in zip(batch.images, batch.targets, strict=True)]


def _content(image: Float[Tensor, "3 H W"], target: Target) -> str:
    digest = hashlib.sha256(f"{target.image_id}\n{tuple(target.original_size)}".encode())
    for name in ("boxes", "labels", "difficult", "crowd"):
        digest.update(_written(getattr(target, name)))
    digest.update(_written(image))
    return digest.hexdigest()


def _written(values: Tensor) -> bytes:
    """Shape and values; in 64 bits, which hold the values of every type exactly: NumPy has no bfloat16."""
    array = values.detach().cpu()
    array = array.double() if array.is_floating_point() else array.long()
    return str(tuple(array.shape)).encode() + np.ascontiguousarray(array.numpy()).tobytes()
