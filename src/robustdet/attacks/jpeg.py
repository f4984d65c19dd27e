"""JPEG compression: a change that every camera makes and no attack does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.base import BaseAttack
from robustdet.attacks.threat import PixelRange, check_images
from robustdet.errors import InputError, StateError
from robustdet.types import Images, Knowledge, Targets, Victim


class JPEG(BaseAttack):
    """The image as a JPEG file of this ``quality`` (1 to 100, the scale of libjpeg) gives it back; always the same."""

    knowledge: Knowledge = "nothing"
    threat = PixelRange()

    def __init__(self, quality: int) -> None:
        if not 1 <= quality <= 100:
            raise InputError(f"expected a quality from 1 to 100, got {quality!r}")
        self.quality = quality

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        return torch.stack([self._compressed(image) for image in images])

    def _compressed(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
        pixels = (image.detach().cpu().permute(1, 2, 0) * 255).round().byte().numpy()
        written, file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), self._flags())
        if not written:
            raise StateError(f"OpenCV wrote no JPEG of an image of {tuple(pixels.shape)} pixels")
        read = cv2.cvtColor(cast(np.ndarray, cv2.imdecode(file, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
        return torch.from_numpy(np.ascontiguousarray(read)).permute(2, 0, 1).to(image) / 255

    def _flags(self) -> list[int]:
        return [cv2.IMWRITE_JPEG_QUALITY, self.quality]
