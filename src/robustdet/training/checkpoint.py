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
    or is a fraction of an epoch.
    """
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]


class CheckpointAfterValidation(ModelCheckpoint):
    """Lightning's, of which ``every_n_train_steps`` waits for the validation of that update where there is one."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not is_validated_now(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_batch_end(trainer, pl_module, None, None, -1)
