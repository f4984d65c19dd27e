"""What Hydra's sweepers need from a job, the values to optimise, and what is settled before a run or a sweep starts."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from robustdet.cli.composition import expand_homes, quoted

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


class Start(Callback):
    """Before a run: ``~`` is the home folder. Before the first job of ``-m`` the folder of all jobs is decided and
    made; a search that adapts is refused distributed jobs, and objectives that nothing measures.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        expand_homes(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        expand_homes(config)
        sweeper = config.hydra.sweeper
        if sweeper._target_ != GRID:
            require_one_process(config.trainer, sweeper._target_.rpartition(".")[2])
            require_measured(config)
        if config.name == "unnamed" and any(key.startswith("experiment=") for key in config.hydra.overrides.task):
            config.name = "several"  # of the folder: each job has its experiment's name
        folder = Path(config.hydra.sweep.dir)
        with read_write(config.hydra):  # jobs are composed anew, each with a name of its own: they get this folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
        folder.parent.mkdir(parents=True, exist_ok=True)  # a study's database lies there


def require_one_process(trainer: DictConfig, sweeper: str) -> None:
    several = processes(trainer)
    if several is not None:
        sys.exit(
            f"{several} inside an adaptive sweep ({sweeper}) is refused: the processes "
            "of a distributed job start as copies of this command, each with a sweeper of its own that proposes "
            "other values, so the ranks of one job would train different things and wait for each other for ever. "
            "Use trainer.devices=1 and run jobs side by side (launcher=slurm, launcher=joblib), or a sweep whose "
            "jobs are commands of their own (`wandb sweep conf/wandb_sweep.yaml`)."
        )


def require_measured(config: DictConfig) -> None:
    """Without an attack to validate with there is no AP under it."""
    unmeasured = [name for name in config.objectives if name.startswith("val/AP50_attacked")]
    if config.validation.attack is None and unmeasured:
        sys.exit(
            f"validation.attack=null measures no {', '.join(unmeasured)}, which this search is to maximise: leave "
            "validation.attack as it is, or search with objectives=[val/AP50_clean] hydra.sweeper.direction=maximize"
        )
