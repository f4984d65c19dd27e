"""Kinds of input: a healthy file of each, how it is damaged, and who reads it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Kind(Protocol):
    name: str

    def prepare(self, folder: Path) -> None:
        """Healthy files in a folder of this kind's own."""
        ...

    def damage(self, chance: random.Random) -> None:
        """Damages them anew, from what ``prepare`` made."""
        ...

    def read(self) -> Any:
        """As the product does. Raises RobustdetError where it refuses, AssertionError for a wrong result."""
        ...


@dataclass
class OneFile:
    """A file with ``healthy`` content that ``damaged`` makes another of, and ``reader`` reads."""

    name: str
    healthy: Callable[[Path], Path]
    damaged: Callable[[bytes, random.Random], bytes]
    reader: Callable[[Path], Any]

    def prepare(self, folder: Path) -> None:
        self.file = self.healthy(folder)
        self.content = self.file.read_bytes()

    def damage(self, chance: random.Random) -> None:
        self.file.write_bytes(self.damaged(self.content, chance))

    def read(self) -> Any:
        return self.reader(self.file)
