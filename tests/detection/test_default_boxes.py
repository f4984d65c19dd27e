from __future__ import annotations

import itertools
import math

import pytest
import torch

from robustdet.detection.default_boxes import DefaultBoxes
from tests.detection.conftest import Build

SSD300_RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
MINIMA = {"ssd300": [30, 60, 111, 162, 213, 264, 315], "ssd300_coco": [21, 45, 99, 153, 207, 261, 315]}


def ssd300_boxes(sizes: list[int]) -> torch.Tensor:
    """The 8,732 boxes of SSD300 by a slow loop, from sizes in pixels."""
    boxes = []
    for k, (cells, step) in enumerate(zip([38, 19, 10, 5, 3, 1], [8, 16, 32, 64, 100, 300], strict=True)):
        for row, column in itertools.product(range(cells), repeat=2):
            x, y, size = (column + 0.5) * step / 300, (row + 0.5) * step / 300, sizes[k] / 300
            boxes.append([x, y, size, size])
            boxes.append([x, y, math.sqrt(size * sizes[k + 1] / 300), math.sqrt(size * sizes[k + 1] / 300)])
            for ratio in SSD300_RATIOS[k]:
                boxes.append([x, y, size * math.sqrt(ratio), size / math.sqrt(ratio)])
                boxes.append([x, y, size / math.sqrt(ratio), size * math.sqrt(ratio)])
    return torch.tensor(boxes).clamp(0, 1)


@pytest.mark.parametrize("name", MINIMA)
def test_ssd300_has_its_8732_boxes(build: Build, name: str) -> None:
    ours = build(name, ["+backbone.width=0.02", "extras.in_channels=20"]).default_boxes
    assert ours.shape == (8732, 4)
    torch.testing.assert_close(ours, ssd300_boxes(MINIMA[name]), atol=1e-6, rtol=0)


def test_without_steps_cells_are_spread_evenly_over_the_image() -> None:
    boxes = DefaultBoxes(scales=[0.5, 1.0], aspect_ratios=[[]])(96, [3])
    assert boxes[::2, 0].tolist() == pytest.approx([1 / 6, 0.5, 5 / 6] * 3)
    assert boxes[::2, 1].tolist() == pytest.approx([1 / 6] * 3 + [0.5] * 3 + [5 / 6] * 3)
    assert boxes[0, 2:].tolist() == [0.5, 0.5]
    assert boxes[1, 2:].tolist() == pytest.approx([math.sqrt(0.5)] * 2)


def test_clipping_is_a_choice() -> None:
    boxes = DefaultBoxes(scales=[0.9, 1.0], aspect_ratios=[[4]], clip=False)(96, [1])
    assert boxes[2].tolist() == pytest.approx([0.5, 0.5, 1.8, 0.45])
    boxes = DefaultBoxes(scales=[0.9, 1.0], aspect_ratios=[[4]])(96, [1])
    assert boxes[2].tolist() == pytest.approx([0.5, 0.5, 1, 0.45])


def test_errors_count_maps_scales_and_steps() -> None:
    with pytest.raises(ValueError, match="2 feature maps need 3 scales, one more than maps; got 2"):
        DefaultBoxes(scales=[0.1, 0.2], aspect_ratios=[[2], [2]])
    with pytest.raises(ValueError, match="1 feature maps need 1 steps, got 2"):
        DefaultBoxes(scales=[0.1, 0.2], aspect_ratios=[[2]], steps=[8, 16])
    with pytest.raises(
        ValueError, match=r"network has 2 feature maps, of \[12, 6\] cells, but aspect_ratios speak of 1"
    ):
        DefaultBoxes(scales=[0.1, 0.2], aspect_ratios=[[2]])(96, [12, 6])
