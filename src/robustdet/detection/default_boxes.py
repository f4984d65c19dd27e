"""SSD's default boxes (section 2.2 there): a fixed grid of boxes for each feature map that predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.errors import InputError


@dataclass(frozen=True)
class DefaultBoxes:
    """How many boxes stand in each cell of each feature map, and which.

    Map k of m has in each cell a square of side ``scales[k]``, a square of side sqrt(scales[k] * scales[k + 1]) and,
    for each ratio r of ``aspect_ratios[k]``, a wide box (scales[k] * sqrt(r), scales[k] / sqrt(r)) and its transpose,
    in that order; cells run along rows. Hence there is one scale more than maps. Scales are fractions of the image.

    ``steps`` is the distance in pixels between the centres of neighbouring cells, map by map; None spreads the cells of
    a map evenly over the image. ``clip`` clips centre and size, each to [0, 1] (as the published SSD300 models do).
    """

    scales: Sequence[float]
    aspect_ratios: Sequence[Sequence[float | int]]
    steps: Sequence[float | int] | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        maps = len(self.aspect_ratios)
        if len(self.scales) != maps + 1:
            raise InputError(f"{maps} feature maps need {maps + 1} scales, one more than maps; got {len(self.scales)}")
        if self.steps is not None and len(self.steps) != maps:
            raise InputError(f"{maps} feature maps need {maps} steps, got {len(self.steps)}")

    @property
    def boxes_per_cell(self) -> list[int]:
        return [2 + 2 * len(ratios) for ratios in self.aspect_ratios]

    def __call__(self, input_size: int, map_sizes: Sequence[int]) -> Float[Tensor, "P 4"]:
        """All boxes as cxcywh fractions, for images of ``input_size`` pixels that give maps of these sizes (cells)."""
        if len(map_sizes) != len(self.aspect_ratios):
            raise InputError(
                f"the network has {len(map_sizes)} feature maps, of {list(map_sizes)} cells, "
                f"but aspect_ratios speak of {len(self.aspect_ratios)}"
            )
        steps = self.steps or [input_size / cells for cells in map_sizes]
        boxes = torch.cat([self._of_map(k, cells, steps[k] / input_size) for k, cells in enumerate(map_sizes)])
        return (boxes.clamp(0, 1) if self.clip else boxes).float()

    def _of_map(self, k: int, cells: int, step: float) -> Float[Tensor, "P 4"]:
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * step
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        shapes = torch.tensor(self._shapes(k), dtype=torch.float64)
        grid = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).expand(-1, len(shapes), 2)
        return torch.cat([grid, shapes.expand(len(grid), -1, 2)], dim=-1).reshape(-1, 4)

    def _shapes(self, k: int) -> list[tuple[float, float]]:
        side, next_side = self.scales[k], self.scales[k + 1]
        shapes = [(side, side), (math.sqrt(side * next_side),) * 2]
        for ratio in self.aspect_ratios[k]:
            wide, high = side * math.sqrt(ratio), side / math.sqrt(ratio)
            shapes += [(wide, high), (high, wide)]
        return shapes
