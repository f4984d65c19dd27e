"""The commands as other processes, on a few drawn images; and a discriminator that two processes can share exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from torch import nn

ROOT = Path(__file__).parents[2]
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


def start(command: str, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """`python -m src.<command>` with one thread a process; what it prints is read from ``stdout``."""
    return subprocess.Popen(
        [sys.executable, "-m", f"src.{command}", *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """All that it printed; AssertionError with it when the process failed."""
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    return output


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
