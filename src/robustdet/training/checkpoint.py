"""When the state is saved: after the validation of an update, never between the two.

Lightning does not make up for a validation that the process did not live to finish. A state saved before it would, gone
on with, leave a gap in every curve; from one saved after it, the updates since the last look are made again, and then
looked at.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


def is_validated_now(trainer: pl.Trainer) -> bool:
    """Whether Lightning will validate after the batch that just ended.

    Its own answer: ``val_check_interval`` counts batches, which are more than updates where gradients are accumulated,
    or is a fraction of an epoch, or a time. Nothing is validated where there is no batch to validate on.
    """
    loop = trainer.fit_loop
    due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
    return due and has_validation(trainer)


def has_validation(trainer: pl.Trainer) -> bool:
    """Lightning asks for the batches when it first validates: until then there may be some."""
    asked = trainer.fit_loop.epoch_loop.val_loop._combined_loader is not None
    return trainer.enable_validation and (not asked or sum(trainer.num_val_batches) > 0)


def would_be_validated_now(trainer: pl.Trainer) -> bool:
    """Of a run without validation: whether one would follow the batch that just ended, had it images for that.

    Every so many batches where ``val_check_interval`` says so; else at the end of an epoch.
    """
    loop, interval = trainer.fit_loop.epoch_loop, trainer.val_check_interval
    if trainer.check_val_every_n_epoch is None and isinstance(interval, int):
        return (loop.total_batch_idx + 1) % interval == 0
    return loop.batch_progress.is_last_batch


class CheckpointAfterValidation(ModelCheckpoint):
    """Lightning's. Without a cadence of its own it saves as often as the run validates, or would validate; with
    ``every_n_train_steps`` or ``train_time_interval`` a save waits for the validation of its update where there is one.
    """

    @property
    def _has_cadence(self) -> bool:
        return self._every_n_train_steps > 0 or self._train_time_interval is not None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_validated_now(trainer):
            return
        if self._has_cadence:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif not has_validation(trainer) and would_be_validated_now(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._has_cadence:
            super().on_train_batch_end(trainer, pl_module, None, None, -1)
        else:
            super().on_validation_end(trainer, pl_module)
