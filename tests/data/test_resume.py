"""A run that stops and goes on sees the batches that an uninterrupted one sees, in Lightning's own hands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import TensorDataset

from robustdet.data.augmentation import Augmentation
from robustdet.data.datamodule import DetectionDataModule
from robustdet.data.sampler import EpochSampler
from robustdet.data.shapes_set import Shapes
from robustdet.types import Batch


class Witness(pl.LightningModule):
    """Learns nothing; notes the images of every training step, and saves a checkpoint after it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[str]]] = []

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, [target.image_id for target in batch.targets]))
        return self.weight * batch.images.mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.save_checkpoint(self.folder / f"{self.global_step}.ckpt")

    def validation_step(self, batch: Batch, index: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(shapes: Shapes, folder: Path, num_workers: int, ckpt_path: Path | None = None) -> Witness:
    witness = Witness(folder)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=16, accelerator="cpu", enable_model_summary=False, limit_val_batches=0, **quiet)
    data = DetectionDataModule(
        lambda root, download: shapes, "unused", 32, 4, 4, Augmentation(), num_workers=num_workers, seed=5
    )
    trainer.fit(witness, datamodule=data, ckpt_path=ckpt_path)
    return witness


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_sees_the_same_batches(shapes: Shapes, tmp_path: Path, num_workers: int) -> None:
    whole = fit(shapes, tmp_path, num_workers)
    per_epoch = [epoch for epoch, _ in whole.seen].count(0)
    assert 3 < per_epoch < 8
    for step in {0: (2, per_epoch - 1, per_epoch, per_epoch + 1), 2: (2,)}[num_workers]:
        resumed = fit(shapes, tmp_path / "resumed", num_workers, tmp_path / f"{step}.ckpt")
        assert resumed.seen == whole.seen[step:]


def numbered(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count))


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_an_epoch(shuffle: bool) -> None:
    shares = [list(EpochSampler(numbered(11), shuffle, 3, num_replicas=2, rank=rank)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == (5 if shuffle else 6)
    indices = [index for share in shares for _, index in share]
    assert len(set(indices)) == (10 if shuffle else 11)


def test_neighbouring_seeds_share_no_order() -> None:
    orders = []
    for seed in range(3):
        sampler = EpochSampler(numbered(50), True, seed)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            keys = list(sampler)
            assert {key[0] for key in keys} == {epoch}
            orders.append(tuple(index for _, index in keys))
    assert len(set(orders)) == 9
