"""Of a family of tests some members run in `make test`, and all of them in `make test-all`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def quick(members: Iterable[Any], are: Callable[[Any], bool]) -> list[Any]:
    """``members`` to parametrise a test with: those that ``are`` not quick are marked as slow."""
    return [one if are(one) else pytest.param(one, marks=pytest.mark.slow) for one in members]
