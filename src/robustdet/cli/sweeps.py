"""What Hydra's sweepers need from a job: the values to optimise; and what they must not be given: distributed jobs."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def objectives(names: list[str], metrics: Mapping[str, float]) -> list[float | None] | float | None:
    """What a job returns to its sweeper: the metrics called ``names`` (a bare number for one), None where not finite.

    A sweeper counts a job with a None among its values as failed and goes on with the next.
    """
    values = [metrics[name] if math.isfinite(metrics.get(name, math.nan)) else None for name in names]
    return values[0] if len(values) == 1 else values


def processes(trainer: DictConfig) -> str | None:
    """Which of the trainer's settings ask for more than one process; None when none does."""
    devices = trainer.get("devices", 1)
    if trainer.get("num_nodes", 1) != 1:
        return f"trainer.num_nodes={trainer.num_nodes}"
    count = devices if isinstance(devices, int | str) else len(devices)
    return None if str(count) == "1" else f"trainer.devices={devices}"


class SweepStart(Callback):
    """Before the first job of ``-m``: makes the folder, and refuses distributed jobs in a search that adapts."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweeper = config.hydra.sweeper
        several = processes(config.trainer)
        if sweeper._target_ != GRID and several is not None:
            sys.exit(
                f"{several} inside an adaptive sweep ({sweeper._target_.rpartition('.')[2]}) is refused: the processes "
                "of a distributed job start as copies of this command, each with a sweeper of its own that proposes "
                "other values, so the ranks of one job would train different things and wait for each other for ever. "
                "Use trainer.devices=1 and run jobs side by side (launcher=slurm, launcher=joblib), or a sweep whose "
                "jobs are commands of their own (`wandb sweep conf/wandb_sweep.yaml`)."
            )
        Path(config.hydra.sweep.dir).parent.mkdir(parents=True, exist_ok=True)  # a study's database lies there
