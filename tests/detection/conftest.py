"""Detectors as their yaml describes them, and targets drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from robustdet.cli.building import without_start
from robustdet.cli.instantiating import instantiate
from robustdet.detection.ssd import SSD
from robustdet.types import Target

CONF = Path(__file__).parents[2] / "conf" / "model"

Build = Callable[..., SSD]


def build_detector(name: str, overrides: Sequence[str] = (), num_classes: int = 20) -> SSD:
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose(name, overrides=list(overrides))
    given = any(override.startswith("weights=") for override in overrides)
    return instantiate(cfg if given else without_start(cfg), num_classes=num_classes).eval()


@pytest.fixture
def build() -> Build:
    return build_detector


def make_target(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int] | None = None,
    difficult: Sequence[int] = (),
    crowd: Sequence[int] = (),
    image_id: str = "picture",
) -> Target:
    """A target; ``difficult`` and ``crowd`` name boxes by index, labels count up from 1 unless given."""
    count = len(boxes)
    index = torch.arange(count)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64) if labels else index + 1,
        difficult=torch.isin(index, torch.tensor(difficult, dtype=torch.int64)),
        crowd=torch.isin(index, torch.tensor(crowd, dtype=torch.int64)),
        image_id=image_id,
        original_size=(96, 96),
    )


def random_target(count: int, size: float, generator: torch.Generator) -> Target:
    corners = torch.rand(count, 2, 2, generator=generator) * size
    low, high = corners.amin(1), corners.amax(1)
    return make_target(torch.cat([low, high + 1], dim=1).tolist())
