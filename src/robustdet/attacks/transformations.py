"""Expectation over transformations: what may happen to a patch on its way into a picture (Athalye et al., ICML 2018,
arXiv 1707.07397)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from robustdet.errors import InputError
from robustdet.types import Images


class Transformations:
    """Draws a change of light, size, direction and place for each image's patch.

    Args:
        brightness: added to every value, drawn from ± this, a fraction of the pixel range.
        contrast: the distance of every value from 0.5 is multiplied by 1 ± up to this.
        noise: standard deviation of normal noise on every value, a fraction of the pixel range.
        scale: the least side of the patch, a share of its square's: it is drawn from here to 1, and what it leaves of
            the square is the image.
        rotation: degrees, drawn from ± this, at most 45. The patch is made smaller for it, so that it stays inside its
            square.
        shift: the square moves by up to this share of its side, down and across, as far as the image goes.

    So whatever is drawn, no pixel outside one square of the patch's size changes.
    """

    def __init__(
        self,
        brightness: float | int = 0.1,
        contrast: float | int = 0.1,
        noise: float | int = 0.02,
        scale: float | int = 0.9,
        rotation: float | int = 5.0,
        shift: float | int = 0.1,
    ) -> None:
        limits = {"brightness": 1, "contrast": 1, "noise": 1, "rotation": 45, "shift": 1}
        given = {"brightness": brightness, "contrast": contrast, "noise": noise, "rotation": rotation, "shift": shift}
        for name, value in given.items():
            if not 0 <= value <= limits[name]:
                raise InputError(f"expected {name} from 0 to {limits[name]}, got {name}={value!r}")
        if not 0 < scale <= 1:
            raise InputError(f"expected scale above 0 and at most 1, got scale={scale!r}")
        self.brightness, self.contrast, self.noise = brightness, contrast, noise
        self.scale, self.rotation, self.shift = scale, rotation, shift

    def paste(
        self,
        images: Images,
        patches: Float[Tensor, "B 3 S S"],
        corners: Int[Tensor, "B 2"],
        generators: Sequence[torch.Generator],
    ) -> Images:
        """The images with each patch in its square, changed as its generator says; with gradient to the patches."""
        side = patches.shape[-1]
        drawn = torch.stack([torch.rand(6, generator=generator) for generator in generators]) * 2 - 1
        noise = torch.stack([torch.randn(patches.shape[1:], generator=generator) for generator in generators])
        room = torch.tensor(images.shape[-2:]) - side
        moved = (corners + (drawn[:, 4:] * self.shift * side).round().long()).clamp(min=0).minimum(room)
        light = drawn[:, :2].to(patches)[:, :, None, None, None]
        shown = (patches - 0.5) * (1 + self.contrast * light[:, 0]) + 0.5 + self.brightness * light[:, 1]
        shown = (shown + self.noise * noise.to(patches)).clamp(0, 1)
        turned, inside = self._turned(shown, drawn[:, 2], drawn[:, 3])
        return paste(images, turned, moved, inside)

    def _turned(
        self, patches: Float[Tensor, "B 3 S S"], turn: Float[Tensor, "B"], shrink: Float[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B 3 S S"], Bool[Tensor, "B S S"]]:
        """The patches rotated and made smaller, and where in their squares they are then."""
        angle = turn * math.radians(self.rotation)
        share = self.scale + (1 - self.scale) * (shrink + 1) / 2
        share = share / (angle.cos() + angle.sin().abs())  # a square turned by that has this much larger a bounding box
        rows = [torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)]
        matrix = F.pad(torch.stack(rows, 1) / share[:, None, None], (0, 1)).to(patches)
        grid = F.affine_grid(matrix, list(patches.shape), align_corners=False)
        turned = F.grid_sample(patches, grid, padding_mode="border", align_corners=False)
        return turned.clamp(0, 1), (grid.abs() <= 1 + 1e-6).all(dim=-1)


def pasted(
    images: Images,
    patches: Float[Tensor, "B 3 S S"],
    corners: Int[Tensor, "B 2"],
    transformations: Transformations | None,
    generators: Sequence[torch.Generator],
) -> Images:
    """The images with each patch at its corner (row, column), as it is or after a draw of ``transformations``."""
    if transformations is None:
        return paste(images, patches, corners)
    return transformations.paste(images, patches, corners, generators)


def paste(
    images: Images,
    patches: Float[Tensor, "B 3 S S"],
    corners: Int[Tensor, "B 2"],
    inside: Bool[Tensor, "B S S"] | None = None,
) -> Images:
    """The images with each patch at its corner (row, column), where ``inside`` says so, as it is."""
    pasted, side = images.clone(), patches.shape[-1]
    for place, (row, column) in enumerate(corners.tolist()):
        square = (place, slice(None), slice(row, row + side), slice(column, column + side))
        patch = patches[place]
        pasted[square] = patch if inside is None else torch.where(inside[place], patch, images[square])
    return pasted
