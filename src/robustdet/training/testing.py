"""Evaluation on Lightning's test loop, for its devices, strategies and limits; the work is the suite's."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import nn

from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.ranks import share
from robustdet.types import Batch


class EvaluationModule(pl.LightningModule):
    """Hands each batch of the test split to ``suite``, up to ``max_images`` images in all (None: the whole split).

    Several processes evaluate a share of the images each, into the same folder; at the end they wait for each other,
    so that whoever then reads the folder finds all of them. What a sampler repeats to make shares equal is left out.
    """

    def __init__(self, model: nn.Module, suite: SuiteEvaluator, max_images: int | None) -> None:
        super().__init__()
        self.model = model
        self.suite = suite
        self.max_images = max_images
        self.room = 0  # images that this process has still to see

    def on_test_start(self) -> None:
        images = len(self.trainer.datamodule.test_dataloader().dataset)  # type: ignore[attr-defined]
        self.room = share(images if self.max_images is None else min(images, self.max_images))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        batch = Batch(batch.images[: self.room], batch.targets[: self.room])
        self.room -= len(batch)
        if len(batch):
            self.suite.evaluate_batch(self.model, batch)  # type: ignore[arg-type]

    def on_test_end(self) -> None:
        self.trainer.strategy.barrier()
