"""Weights averaged over updates: an exponential moving average, which is what is validated, saved and evaluated.

Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
"""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel


class MovingAverage(WeightAveraging):
    """Lightning's, with an average that forgets how it began: update n leaves ``min(decay, (1 + n) / (10 + n))`` of it.

    A checkpoint's ``state_dict`` is the average, ``averaged`` says so in words, and ``current_model_state`` has the
    weights that go on learning; the last one's too, where Lightning would have put the average in their place.
    The average is in the detector's place from the first hook of a validation to the last, and on its device.

    Args:
        decay: in [0, 1]; 0.999 is a mean over about the last thousand updates.
    """

    def __init__(self, decay: float | int) -> None:
        super().__init__(multi_avg_fn=self._move)
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the detector itself gets there later
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:  # counted where nobody has to wait for the count
            self._average_model.n_averaged = torch.tensor(0)
        if stage == "fit":
            trainer.strategy.precision_plugin.convert_module(cast(AveragedModel, self._average_model))

    def _move(self, average: list[Tensor], current: list[Tensor], _: Tensor | int) -> None:
        move(self.decay, average, current, int(cast(AveragedModel, self._average_model).n_averaged))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What learns stays what it is, for the last checkpoint and the last validation come after this."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Done already."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Others look at the weights in this hook."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        made = int(checkpoint["averaging_state"]["n_averaged"])
        checkpoint["averaged"] = f"an exponential moving average over {made} updates, decay {self.decay:g}"


@torch.no_grad()
def move(decay: float | int, average: list[Tensor], current: list[Tensor], made: int) -> None:
    """Move tensors of one kind and device towards the current ones, in place; ``made`` averages went before.

    What both have in common stays bit for bit, which constants among a detector's buffers need; counts are copied.
    """
    if average[0].is_floating_point():
        torch._foreach_lerp_(average, current, 1 - min(decay, (1 + made) / (10 + made)))
    else:
        for ours, theirs in zip(average, current, strict=True):
            ours.copy_(theirs)
