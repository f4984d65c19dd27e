"""What an attack costs its victim, in a unit that every machine shares: images that the detector has looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Forwards:
    """How many images went through the detector; one image twice counts as two."""

    images: int = 0


@contextmanager
def counted_forwards(detector: Any) -> Iterator[Forwards]:
    """Counts those of ``detector`` (a ``torch.nn.Module``) inside the context; those of a surrogate do not count."""
    counted = Forwards()

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        counted.images += len(inputs[0])

    handle = detector.register_forward_pre_hook(count)
    try:
        yield counted
    finally:
        handle.remove()
