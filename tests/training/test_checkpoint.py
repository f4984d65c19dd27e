"""Which batches a validation follows, as Lightning sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from robustdet.training.checkpoint import is_validated_now


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Watch(pl.Callback):
    def __init__(self) -> None:
        self.batches, self.foreseen, self.seen = 0, [], []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.batches += 1
        if is_validated_now(trainer):
            self.foreseen.append(self.batches)

    def on_validation_end(self, *_: Any) -> None:
        self.seen.append(self.batches)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, [4, 8, 12]),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2}, [4, 8, 12]),
        ({"val_check_interval": 0.5}, [3, 6, 9, 12]),
        ({"check_val_every_n_epoch": 2}, [12]),
        ({"limit_val_batches": 0}, []),
    ],
    ids=["batches", "accumulated", "fraction", "epochs", "never"],
)
def test_every_validation_is_foreseen(settings: dict[str, Any], expected: list[int], tmp_path: Path):
    watch, batches = Watch(), DataLoader(torch.ones(6, 1))
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=2,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(Line(), batches, batches)
    assert watch.foreseen == watch.seen == expected
