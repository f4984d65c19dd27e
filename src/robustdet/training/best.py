"""The state that did best on the validation split, kept beside the newest one as ``best.ckpt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from robustdet.training.checkpoint import CheckpointAfterValidation
from robustdet.training.validation import MIX, Validation


class BestCheckpoint(CheckpointAfterValidation):
    """Keeps the state with the highest ``monitor`` of all that were looked at, the first of equals.

    The look that follows the last update counts as those during training do. Stands before other callbacks that save,
    so that the states they save know of it. ``chosen`` says in words by what the file was chosen; the file says so too,
    under the key of that name. Empty until something was looked at. A run that goes on with other settings of its
    validation, or other images, begins the contest anew: scores of two rules are not compared.

    Args:
        dirpath: the folder of ``best.ckpt``.
        monitor: name of a logged metric, more is better.
    """

    def __init__(self, dirpath: str, monitor: str = MIX) -> None:
        super().__init__(
            dirpath, "best", monitor, mode="max", save_on_train_epoch_end=False, enable_version_counter=False
        )
        self.chosen = ""
        self.rule: dict[str, Any] = {}  # what the scores so far were measured by
        self._saving = False

    @property
    def kept(self) -> Path:
        """The file, where anything was chosen."""
        return Path(self.best_model_path)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Nothing is known between two looks."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:  # not where no image was looked at
            super().on_validation_end(trainer, pl_module)

    def _should_skip_saving_checkpoint(self, trainer: pl.Trainer) -> bool:
        trained = trainer.global_step > 0 and not trainer.fast_dev_run  # type: ignore[attr-defined]
        return super()._should_skip_saving_checkpoint(trainer) and not (trainer.state.fn == "validate" and trained)

    def _save_topk_checkpoint(self, trainer: pl.Trainer, monitor_candidates: dict[str, torch.Tensor]) -> None:
        module = trainer.lightning_module
        images = cast(Validation, module.validation).looked_at
        rule = {**module.hparams.get("validation", {}), "number of images": images}
        changed = sorted(key for key in {*rule, *self.rule} if rule.get(key) != self.rule.get(key))
        if self.rule and changed:
            self.best_k_models, self.best_model_path, self.best_model_score = {}, "", None
            if trainer.is_global_zero:
                print(f"The validation has another {', '.join(changed)} than before: its best state is chosen anew")
        self.rule = rule
        super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        validation = cast(Validation, trainer.lightning_module.validation)
        by = validation.mix if self.monitor == MIX else self.monitor
        self.chosen = (
            f"the highest {by} on {validation.looked_at} images of the validation split: {self.best_model_score:.4f}, "
            f"after {trainer.global_step} updates"
        )
        self._saving = True
        try:
            super()._save_checkpoint(trainer, filepath)
        finally:
            self._saving = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._saving:
            checkpoint["chosen"] = self.chosen

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "chosen": self.chosen, "rule": self.rule}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.best_k_models and not self.kept.is_file():
            self.best_k_models, self.best_model_path, self.best_model_score = {}, "", None
            rank_zero_only(print)(f"{state_dict['best_model_path']} is gone: the best state is chosen anew")
        if self.best_k_models:  # the state is of this folder's run
            self.chosen = state_dict["chosen"]
            self.rule = state_dict.get("rule", {})  # states of earlier versions do not say


def kept_as_best(trainer: pl.Trainer) -> list[BestCheckpoint]:
    """Those callbacks of ``trainer`` that kept a state."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [one for one in callbacks if isinstance(one, BestCheckpoint) and one.chosen]
