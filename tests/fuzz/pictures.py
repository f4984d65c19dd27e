"""Images, as a prediction reads them: PNG, JPEG, TIFF and others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from robustdet.data.photo import read_photo
from tests.fuzz.kinds import Kind, OneFile
from tests.fuzz.mutations import mutated_bytes


def picture(folder: Path, ending: str) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"picture.{ending}")
    return folder / f"picture.{ending}"


def read_picture(file: Path) -> None:
    image, (height, width) = read_photo(file, 32)
    assert image.shape == (1, 3, 32, 32)
    assert bool(((image >= 0) & (image <= 1)).all())
    assert min(height, width) > 0


KINDS: list[Kind] = [
    OneFile(f"image: {ending}", partial(picture, ending=ending), mutated_bytes, read_picture)
    for ending in ("png", "jpg", "tiff", "bmp", "webp", "gif")
]
