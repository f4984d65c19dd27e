"""Where in an image a patch is put: on an object, beside one, or anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustdet.attacks.randomness import image_generators
from robustdet.types import Target, Targets

Place: TypeAlias = Literal["on_object", "beside_object", "anywhere"]
PLACES: tuple[Place, ...] = get_args(Place)


class Placement:
    """Puts a square of pixels into each image, by chance: always at the same place of an image of the same id.

    ``place``: the middle of the square on that of an object, moved into the image where it would leave it
    ("on_object"); as near to an object as can be where it hides none, or as little of them as can be ("beside_object");
    or "anywhere", as in images without objects. Which object, and which of several such places, ``seed`` decides. It is
    not drawn from an attack's generators: so attacks that share a placement hide the same pixels.
    """

    def __init__(self, place: Place, seed: int = 0) -> None:
        self.place = place
        self.seed = seed

    def __call__(self, targets: Targets, side: int, height: int, width: int) -> Int[Tensor, "B 2"]:
        """Row and column of the upper left pixel of a square of this ``side`` in each image."""
        generators = image_generators(self.seed, [target.image_id for target in targets], "the place of a patch")
        corners = [
            self._corner(target.learnable, side, height, width, generator)
            for target, generator in zip(targets, generators, strict=True)
        ]
        return torch.tensor(corners, dtype=torch.long).view(-1, 2)

    def _corner(self, target: Target, side: int, height: int, width: int, generator: torch.Generator) -> Sequence[int]:
        last = torch.tensor([height - side, width - side])
        anywhere, which = torch.rand(2, generator=generator), float(torch.rand((), generator=generator))
        if self.place == "anywhere" or not len(target.labels):
            return (anywhere * (last + 1)).long().minimum(last).tolist()
        boxes = target.boxes.detach().cpu().double()
        box = boxes[min(int(which * len(boxes)), len(boxes) - 1)]
        if self.place == "on_object":
            middle = torch.stack([box[1] + box[3], box[0] + box[2]]) / 2
            return (middle - side / 2).round().long().clamp(min=0).minimum(last).tolist()
        hidden = _hidden(boxes, side, height, width)
        far = _gap(box, side, height, width).masked_fill(hidden > hidden.min() + 1e-9, torch.inf)
        nearest = (far <= far.min() + 0.5).nonzero()  # half a pixel: boxes lie between pixels
        return nearest[min(int(float(anywhere[0]) * len(nearest)), len(nearest) - 1)].tolist()


def _hidden(boxes: Float[Tensor, "N 4"], side: int, height: int, width: int) -> Float[Tensor, "rows columns"]:
    """For every upper left pixel the shares of the objects that the square would hide, added."""
    down = _common(boxes[:, 1], boxes[:, 3], side, height)
    across = _common(boxes[:, 0], boxes[:, 2], side, width)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1e-9)
    return torch.einsum("ni,nj->ij", down, across / area[:, None])


def _common(low: Float[Tensor, "N"], high: Float[Tensor, "N"], side: int, length: int) -> Float[Tensor, "N places"]:
    begin = torch.arange(length - side + 1, dtype=low.dtype)
    return (torch.minimum(high[:, None], begin + side) - torch.maximum(low[:, None], begin)).clamp(min=0)


def _gap(box: Float[Tensor, "4"], side: int, height: int, width: int) -> Float[Tensor, "rows columns"]:
    """For every upper left pixel how far the square is from the box, pixels."""
    rows, columns = (torch.arange(length - side + 1, dtype=box.dtype) for length in (height, width))
    down = torch.maximum(box[1] - rows - side, rows - box[3]).clamp(min=0)
    across = torch.maximum(box[0] - columns - side, columns - box[2]).clamp(min=0)
    return torch.hypot(down[:, None], across[None])
