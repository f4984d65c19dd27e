"""Damages the files of a kind again and again, and watches how each is taken."""

from __future__ import annotations

import logging
import random
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from robustdet.errors import RobustdetError
from tests.fuzz import annotations, commands, pictures, results
from tests.fuzz.kinds import Kind

KINDS: list[Kind] = [*annotations.KINDS, *pictures.KINDS, *results.KINDS, *commands.KINDS]
LIMIT = 10.0  # seconds that one input may take
MEMORY = 12 << 30  # bytes of addresses: what a damaged size asks for must not take the machine along


@dataclass
class Tally:
    """How many inputs of a kind were read, refused, or failed; one text for each sort of failure."""

    name: str
    read: int = 0
    refused: int = 0
    failed: int = 0
    slowest: float = 0.0
    failures: dict[str, None] = field(default_factory=dict)

    @classmethod
    def all(cls, tallies: Sequence[Tally]) -> Tally:
        read, refused, failed = (sum(getattr(one, name) for one in tallies) for name in ("read", "refused", "failed"))
        return cls("all", read, refused, failed, max(one.slowest for one in tallies))

    def __str__(self) -> str:
        inputs = self.read + self.refused + self.failed
        return f"{self.name:24s}{inputs:8d}{self.read:8d}{self.refused:9d}{self.failed:10d}{self.slowest:9.2f}s"


class TookTooLongError(BaseException):
    """Nobody who reads catches this."""


def fuzz(kind: Kind, inputs: int, seed: int) -> Tally:
    tally = Tally(kind.name)
    seen: set[str] = set()
    logging.disable(logging.WARNING)
    before = signal.signal(signal.SIGALRM, _stop)
    try:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(action="ignore"):
            kind.prepare(Path(name))
            kind.read()  # healthy
            for number in range(inputs):
                kind.damage(random.Random(f"{kind.name} {seed} {number}"))
                began = time.monotonic()
                signal.setitimer(signal.ITIMER_REAL, LIMIT)
                try:
                    kind.read()
                    tally.read += 1
                except RobustdetError as error:
                    tally.refused += 1
                    if not str(error).strip():
                        tally.failed += 1
                        tally.failures[f"input {number}: an error without a text"] = None
                except (Exception, TookTooLongError) as error:
                    tally.failed += 1
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    sort = f"{type(error).__name__} {where.filename}:{where.lineno}"
                    if sort not in seen:
                        seen.add(sort)
                        ours = [f for f in traceback.extract_tb(error.__traceback__) if "robustdet" in f.filename][-1:]
                        at = "".join(f"{Path(f.filename).name}:{f.lineno}" for f in ours)
                        tally.failures[f"input {number}: {type(error).__name__}: {str(error)[:300]} ({at})"] = None
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                tally.slowest = max(tally.slowest, time.monotonic() - began)
    finally:
        signal.signal(signal.SIGALRM, before)
        logging.disable(logging.NOTSET)
    return tally


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _stop(number: int, frame: FrameType | None) -> None:
    raise TookTooLongError(f"not read after {LIMIT} s")
