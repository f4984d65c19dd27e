"""The one place where images in [0, 1] become what the network was trained to eat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.types import Images


class Normalisation(nn.Module):
    """``(255 x - mean) / std`` for RGB images in [0, 1]; ``mean`` and ``std`` are per channel, on the 0-255 scale.

    The defaults are what the VGG16 of SSD was trained with. They are settings, not weights: no part of a state dict.
    """

    mean: Float[Tensor, "1 3 1 1"]
    std: Float[Tensor, "1 3 1 1"]

    def __init__(self, mean: Sequence[float | int] = (123, 117, 104), std: Sequence[float | int] = (1, 1, 1)) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(map(float, values))).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Images) -> Images:
        return (images * 255 - self.mean) / self.std
