"""Anybody's torch data set of (image, {boxes, labels}) to be trained on, and another to be watched meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from robustdet.data.sampler import EpochSampler, InOrder, ResumableLoader
from robustdet.errors import InputError
from robustdet.interop.torch_dataset import TorchData, TorchSamples, together
from robustdet.types import Batch


class TorchTraining(LightningDataModule):
    """Batches of ``batch_size`` images of all processes together, in another order every epoch, without an incomplete
    last one. ``dataset`` and ``validation`` (None: nothing is watched) are as `TorchData` takes them, which looks at
    each item; what draws augmentations is the data set's own affair.
    """

    def __init__(
        self,
        dataset: Any,
        validation: Any,
        classes: Sequence[str] | None,
        num_classes: int,
        image_size: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        data = TorchData(dataset, classes or None, num_classes, image_size, batch_size, seed)
        self.name = str(data.name)
        self.classes, self.image_size = data.classes, image_size
        self.batch_size, self.eval_batch_size, self._seed = batch_size, batch_size, seed
        if len(dataset) < batch_size:
            raise InputError(f"data: {data.name} has {len(dataset)} images, not enough for a batch of {batch_size}")
        self._train = TorchSamples(dataset, self.name, data.classes, image_size)
        self._seen, self._learnable = 0, False
        self._val = None
        if validation is not None:
            TorchData(validation, data.classes, num_classes, image_size, batch_size, seed)  # refuses what is none
            self._val = TorchSamples(validation, f"{data.name}, validation", data.classes, image_size)

    def train_dataloader(self) -> DataLoader[Batch]:
        processes, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        if self.batch_size % processes:
            raise InputError(
                f"batch_size={self.batch_size} is of all {processes} processes together and does not divide by them"
            )
        return ResumableLoader(
            self._train,
            batch_size=self.batch_size // processes,
            sampler=EpochSampler(self._train, True, self._seed, processes, rank),
            collate_fn=together,
            drop_last=True,
        )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Raises InputError once an epoch has shown nothing to learn; `teardown` does so after less than an epoch."""
        if self.trainer is None or self.trainer.training:
            self._seen += len(batch.targets)
            self._learnable |= any(len(target.learnable.labels) for target in batch.targets)
            if self._seen >= len(self._train):
                self._require_learnable()
        return batch

    def teardown(self, stage: str) -> None:
        self._require_learnable()

    def _require_learnable(self) -> None:
        if self._seen and not self._learnable:
            raise InputError(
                f"data: {self.name} has nothing to learn: none of the {self._seen} images that were seen has an object "
                "that is neither difficult nor crowd"
            )

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self._val is None:
            return []
        replicas = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return ResumableLoader(
            self._val,
            batch_size=self.eval_batch_size,
            sampler=InOrder(self._val, self._seed, *replicas),
            collate_fn=together,
        )
