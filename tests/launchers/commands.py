"""The commands as other processes, on a few drawn images; and a discriminator that two processes can share exactly."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from tests.forks import Spawned, Spawner

SPAWNER = Spawner()
FEW = [
    "data.source.train=24",
    "data.source.val=7",
    "data.source.test=7",
    "data.batch_size=4",
    "data.eval_batch_size=2",
    "trainer.log_every_n_steps=1",
    "validation.attack.steps=1",
    "callbacks.routing.steps=1",
    "callbacks.routing.images=2",
    "warm_start.experiment=null",
]


def start(command: str, *overrides: str, **environment: str) -> Spawned:
    """`python -m src.<command>` with one thread, in the repository."""
    return SPAWNER.start(command, overrides, Path(mkdtemp()), environment)


def ended(command: str, *overrides: str) -> Spawned:
    """The same, when it has ended, however that was."""
    process = start(command, *overrides)
    process.wait()
    return process


def finish(process: Spawned) -> str:
    """All that it printed; AssertionError with it when the process failed."""
    code, output = process.wait(), process.said + process.warned
    assert code == 0, output
    return output


def as_rank(rank: int, port: int, command: Callable[[DictConfig], Any], cfg: DictConfig) -> str:
    """Calls a command as one of two processes that somebody else has started, as torchrun does; what it printed."""
    torch.set_num_threads(1)
    given = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    said = StringIO()
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    try:
        with patch.dict(os.environ, {name: str(value) for name, value in given.items()}), redirect_stdout(said):
            command(cfg)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # the other one, if it waits for this, ends as well
    return said.getvalue()


class Pair:
    """Two processes: this one, and another that is started once for many commands, for its imports take seconds."""

    def __init__(self) -> None:
        self.other = ProcessPoolExecutor(1, get_context("spawn"))

    def run(self, command: Callable[[DictConfig], Any], cfg: DictConfig) -> str:
        """What both printed; an error of either."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        theirs = self.other.submit(as_rank, 1, port, command, cfg)
        return as_rank(0, port, command, cfg) + theirs.result()


class PlainTrunk(nn.Sequential):
    """Without batch norm, whose statistics are of each process's own share on the CPU."""

    def __init__(self, num_kernels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, num_kernels),
        )
