"""Evaluation on Lightning's test loop, for its devices, strategies and limits; the work is the suite's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from torch import nn

from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.evaluation.record import Record
from robustdet.ranks import gathered_objects, share
from robustdet.types import Batch


class EvaluationModule(pl.LightningModule):
    """Hands each batch of the test split to ``suite``, up to ``max_images`` images in all (None: the whole split).

    Several processes evaluate a share of the images each, into the same folder; at the end they tell each other what
    they saw, so that whoever then reads the folder finds all of it. What a sampler repeats to make shares equal is left
    out.
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
        self.suite.merge(gathered_objects(self.suite.seen))


def log_records(loggers: Iterable[Logger], records: Sequence[Record]) -> None:
    """The headline AP under each attack (in [0, 1]) as ``evaluate/<attack>``; where a logger has tables, also one."""
    for logger in loggers:
        logger.log_metrics({f"evaluate/{record.attack}": record.map for record in records}, 0)
        if hasattr(logger, "log_table"):
            rows = [[record.attack, record.map, record.area_map, record.num_images] for record in records]
            logger.log_table("evaluate/table", ["attack", "AP", "area AP", "images"], rows)
