"""What is done to a command while it works, and how it has to end by that."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from robustdet import files
from tests.forks import Command

ENDED = 0


@dataclass(frozen=True)
class Fault:
    """``prepare`` is done in the command's process before it begins, ``strike`` from outside while it works, given the
    seconds that it takes undisturbed; ``codes`` are the exit codes that are right, ``says`` what has to be told then.
    """

    name: str
    codes: frozenset[int]
    strike: Callable[[Command, random.Random, float], None] = lambda command, chance, seconds: None
    prepare: Callable[[random.Random], None] = lambda chance: None
    says: dict[int, str] = field(default_factory=dict)


def at_some_moment(*numbers: int, between: float = 0.0) -> Callable[[Command, random.Random, float], None]:
    def strike(command: Command, chance: random.Random, seconds: float) -> None:
        time.sleep(chance.uniform(0, 0.9 * seconds))
        for number in numbers:
            command.send(number)
            time.sleep(between)

    return strike


def die_while_saving(chance: random.Random) -> None:
    """Before a file is put into its place, or when a part of it is written."""
    saves, half = chance.randrange(1, 12), chance.random() < 0.5
    replace, original = os.replace, {"save": torch.save, "savez": np.savez_compressed}

    def counted() -> bool:
        nonlocal saves
        saves -= 1
        return saves == 0

    def placed(source: Any, target: Any) -> None:
        if not half and counted():
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    def halved(write: Callable[..., None]) -> Callable[..., None]:
        def written(*arguments: Any, **more: Any) -> None:
            write(*arguments, **more)
            if half and counted():
                file = next(one for one in arguments if hasattr(one, "truncate"))
                file.flush()
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        return written

    files.os.replace = placed  # type: ignore[attr-defined]
    torch.save, np.savez_compressed = halved(original["save"]), halved(original["savez"])


def fill_the_disk(chance: random.Random) -> None:
    """No file may be larger than so many bytes: to a program it is as a disk that is full."""
    limit = int(10 ** chance.uniform(2.5, 6))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def let_a_worker_die(chance: random.Random) -> None:
    """The process that reads images ends in the middle of it, as by the kernel that is out of memory."""
    from robustdet.data.dataset import DetectionDataset

    original, left, first = DetectionDataset.__getitem__, chance.randrange(12), os.getpid()

    def read(self: Any, key: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0 and os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, key)

    DetectionDataset.__getitem__ = read  # type: ignore[method-assign]


KILL = Fault("kill -9", frozenset({ENDED, 137}), at_some_moment(signal.SIGKILL))
SAVING = Fault("kill -9 while saving", frozenset({ENDED, 137}), prepare=die_while_saving)
TERM = Fault("SIGTERM", frozenset({ENDED, 143}), at_some_moment(signal.SIGTERM))
CTRL_C = Fault("Ctrl-C", frozenset({ENDED, 130}), at_some_moment(signal.SIGINT))
TWICE = Fault("Ctrl-C twice", frozenset({ENDED, 130}), at_some_moment(signal.SIGINT, signal.SIGINT, between=0.05))
DISK = Fault("full disk", frozenset({ENDED, 1}), prepare=fill_the_disk, says={1: "larger than is allowed"})
WORKER = Fault("dead worker", frozenset({ENDED, 1}), prepare=let_a_worker_die, says={1: "that reads images has died"})
