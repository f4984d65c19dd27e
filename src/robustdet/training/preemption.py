"""A job that is told to go saves its state first; under SLURM it asks to be started again.

SIGTERM (SLURM pre-empts or cancels the job, somebody says `kill`) and SIGINT (Ctrl-C): save and stop; a second Ctrl-C
stops at once. SIGUSR1 (what `#SBATCH --signal=SIGUSR1@120` sends when the time is nearly up): save, `scontrol requeue`,
stop. The exit code is the signal's as a shell says it (143, 130, 138): the training is not finished, and
`train && evaluate` must not go on.

Lightning's own handler saves in the middle of whatever an update is doing, where half the weights may have changed and
other processes wait inside a collective; here the update is finished first, and the validation that belongs to it, and
all processes stop after the same one.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from robustdet.ranks import averaged, world_size
from robustdet.training.checkpoint import is_validated_now

TIME_IS_UP: int | None = getattr(signal, "SIGUSR1", None)  # Windows has none, and no SLURM
SIGNALS: list[int] = [*([] if TIME_IS_UP is None else [TIME_IS_UP]), signal.SIGTERM, signal.SIGINT]


EVERY = 10  # updates


class Preemption(Checkpoint):
    """Saves ``folder/last.ckpt`` after the update in which a signal came, and ends the process with its exit code.

    A checkpoint callback, which Lightning calls behind all others: the state knows what they know of this update. Only
    the processes that a signal reaches need it: the others hear of it, after each update, on GPUs after every tenth
    (and after a validation), for to ask them is to wait for them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.checkpoint = Path(folder) / "last.ckpt"
        self.heard: list[int] = []  # signals
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        told = SIGNALS if "SLURM_JOB_ID" in os.environ else [one for one in SIGNALS if one != TIME_IS_UP]
        self._before = {number: signal.signal(number, self._hear) for number in told}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self.heard:
            os._exit(128 + number)
        if number == signal.SIGINT:
            os.write(2, b"\nStopping when this update is made and saved; Ctrl-C again stops at once\n")
        self.heard.append(number)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_validated_now(trainer) or not self._is_time_to_ask(trainer, pl_module.device):
            return
        if self._save_if_told(trainer, pl_module):
            trainer._logger_connector.update_train_step_metrics()  # Lightning logs an update after this hook
            raise SystemExit(128 + self.heard[0])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and self._save_if_told(trainer, pl_module):
            raise SystemExit(128 + self.heard[0])

    def _is_time_to_ask(self, trainer: pl.Trainer, device: torch.device) -> bool:
        """The same answer in all processes."""
        alone, updates = device.type == "cpu" or world_size() == 1, trainer.global_step
        return alone or updates % EVERY == 0 or updates == trainer.max_steps

    @property
    def told_to_end(self) -> int | None:
        """The signal that said so; None for one that asks for the job to be started again, and where none came."""
        return next((number for number in self.heard if number != TIME_IS_UP), None)

    def _save_if_told(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        self.heard = self._agreed(pl_module.device)
        if not self.heard or trainer.global_step in (0, trainer.max_steps):  # nothing is done yet, or left to do
            return False
        trainer.save_checkpoint(self.checkpoint)
        if trainer.is_global_zero:
            print(
                f"Told to stop: the state after {trainer.global_step} updates is in {self.checkpoint}; "
                "the same command with ckpt_path=last goes on from there",
                flush=True,
            )
            if TIME_IS_UP in self.heard:
                requeue_slurm_job()
        return True

    def _agreed(self, device: torch.device) -> list[int]:
        """The signals that any process has heard, the one that gives the exit code first."""
        mine = [number in self.heard for number in SIGNALS]
        shares = (
            mine if world_size() == 1 else averaged(torch.tensor(mine, dtype=torch.float32, device=device)).tolist()
        )
        return [number for number, share in zip(SIGNALS, shares, strict=True) if share > 0]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def requeue_slurm_job() -> None:
    """Raises CalledProcessError or FileNotFoundError where SLURM cannot be asked."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{task}"
    subprocess.run(["scontrol", "requeue", job], check=True)
