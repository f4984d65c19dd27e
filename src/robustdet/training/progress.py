"""Lightning's loops on a :class:`robustdet.progress.ProgressBar`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl

from robustdet.progress import ProgressBar
from robustdet.training.finite import every
from robustdet.training.testing import EvaluationModule
from robustdet.types import Batch

SHOWN = {"val/AP50_clean": "clean AP50", "val/AP50_attacked": "attacked AP50"}


def _end(count: int | float) -> int | None:
    return None if count in (float("inf"), -1) else int(count)


def _shown(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(metrics[metric]) for metric, name in SHOWN.items() if metric in metrics}


class TrainingProgress(pl.Callback):
    """Updates, loss, AP as of the last validation, images/s and time left while training.

    Batches while validating and testing; of the evaluation of a suite, batches under an attack, which the bar names.
    """

    def __init__(self) -> None:
        self.bars: dict[str, ProgressBar] = {}
        self.validated: dict[str, float] = {}  # AP by what it is called here
        self.loss: dict[str, float] = {}
        self.updates = 0  # that the bar of the training has been told of

    def _open(self, stage: str, trainer: pl.Trainer, title: str, total: int | None) -> None:
        if trainer.is_global_zero:
            self.bars[stage] = ProgressBar(title, total).__enter__()

    def _close(self, stage: str) -> None:
        if stage in self.bars:
            self.bars.pop(stage).__exit__(None, None, None)

    def _advance(self, stage: str, steps: int, images: int, values: dict[str, float]) -> None:
        if stage in self.bars:
            self.bars[stage].advance(steps, images, values)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.updates = trainer.global_step
        self.validated = _shown(getattr(pl_module, "logged", {}))
        remaining = _end(trainer.estimated_stepping_batches)
        self._open("train", trainer, "training", None if remaining is None else remaining - trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if outputs and trainer.global_step % every(outputs["loss"].device) == 0:  # a GPU is not waited for each time
            self.loss = {"loss": float(outputs["loss"])}
        self._advance("train", trainer.global_step - self.updates, len(batch), self.loss | self.validated)
        self.updates = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close("train")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "train" not in self.bars:  # a live bar cannot be opened inside another
            self._open("validate", trainer, "validating", _end(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._advance("validate", 1, len(batch), {})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close("validate")
        self.validated = _shown(trainer.callback_metrics)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        batches, attacks = _end(sum(trainer.num_test_batches)), 1
        if isinstance(pl_module, EvaluationModule):
            attacks = len(pl_module.suite.attacks)
        self._open("test", trainer, "evaluating", None if batches is None else batches * attacks)
        if isinstance(pl_module, EvaluationModule) and "test" in self.bars:
            pl_module.suite.working = self.bars["test"].working

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(pl_module, EvaluationModule):
            self._advance("test", 1, len(batch), {})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close("test")
        if isinstance(pl_module, EvaluationModule):
            pl_module.suite.working = lambda attack, images: nullcontext()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        for stage in list(self.bars):
            self._close(stage)
