"""Evaluation on Lightning's test loop, for its devices, strategies and limits; the work is the suite's."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import nn

from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.types import Batch


class EvaluationModule(pl.LightningModule):
    """Hands each batch of the test split to ``suite``, up to ``max_images`` images in all (None: the whole split)."""

    def __init__(self, model: nn.Module, suite: SuiteEvaluator, max_images: int | None) -> None:
        super().__init__()
        self.model = model
        self.suite = suite
        self.max_images = max_images
        self.seen = 0

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        if self.max_images is not None:
            room = self.max_images - self.seen
            if room <= 0:
                self.trainer.should_stop = True
                return
            batch = Batch(batch.images[:room], batch.targets[:room])
        self.seen += len(batch)
        self.suite.evaluate_batch(self.model, batch)  # type: ignore[arg-type]
