from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from robustdet.types import Target
from tests.detection.conftest import build_detector, make_target

# image 0 and image 1 of the golden numbers, as fractions of the image; labels count the background
GOLDEN_TARGETS: list[tuple[list[tuple[float, ...]], list[int]]] = [
    ([(0.10, 0.12, 0.58, 0.71), (0.40, 0.30, 0.93, 0.88)], [15, 7]),
    ([(0.05, 0.50, 0.35, 0.95), (0.62, 0.08, 0.80, 0.30), (0.30, 0.25, 0.75, 0.66)], [1, 12, 20]),
]


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    return build_detector


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision wherever a test does not say otherwise, as Lightning's `64-true` has it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def golden_targets(size: int) -> Sequence[Target]:
    return [
        make_target([[size * side for side in box] for box in boxes], labels, image_id=str(index))
        for index, (boxes, labels) in enumerate(GOLDEN_TARGETS)
    ]
