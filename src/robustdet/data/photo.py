"""Photographs that nobody has annotated, as a detector sees them: the very pixels of an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from robustdet.data.pixels import read_pixels, stretched
from robustdet.errors import MissingFileError
from robustdet.types import Images


def read_photo(path: Path, size: int) -> tuple[Images, tuple[int, int]]:
    """A photograph as a detector's input [1, 3, size, size], RGB in [0, 1], and its own (height, width).

    Raises FileNotFoundError, or InputError for what is no image (see `robustdet.data.pixels`).
    """
    if not path.is_file():
        raise MissingFileError(f"image={path} does not exist")
    pixels, shape = read_pixels(path, size)
    return as_input(pixels, size), shape


def as_input(pixels: UInt8[np.ndarray, "H W 3"], size: int) -> Float32[Tensor, "1 3 S S"]:
    """RGB bytes as a detector's input [1, 3, size, size]."""
    image = stretched(pixels, size)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float().div_(255)
