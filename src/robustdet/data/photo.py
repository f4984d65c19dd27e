"""Photographs that nobody has annotated, as a detector sees them: the very pixels of an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from robustdet.data.dataset import decoded, stretched
from robustdet.types import Images


def read_photo(path: Path, size: int) -> tuple[Images, tuple[int, int]]:
    """A photograph as a detector's input [1, 3, size, size], RGB in [0, 1], and its own (height, width).

    It is turned upright as its EXIF data say (an annotated image is taken as it is stored, for its boxes lie there).
    Raises FileNotFoundError, or ValueError for what is no image.
    """
    if not path.is_file():
        raise FileNotFoundError(f"image={path} does not exist")
    pixels = decoded(path, upright=True)
    return as_input(pixels, size), pixels.shape[:2]


def as_input(pixels: UInt8[np.ndarray, "H W 3"], size: int) -> Float32[Tensor, "1 3 S S"]:
    """RGB bytes as a detector's input [1, 3, size, size]."""
    image = stretched(pixels, size)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float().div_(255)
