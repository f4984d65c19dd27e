"""Training and evaluation mode of modules, given back as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """On leaving, by an error too, each of ``modules`` has the mode that it came in; their parts are not looked at."""
    before = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
