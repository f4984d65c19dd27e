"""Anybody's torch data set of (image, {boxes, labels}) as a test split, each item looked at before it counts.

An image is called by its ``image_id``, or by its place; what is stored of it goes by its content besides
(`robustdet.evaluation.content`), so that a changed pixel or box is measured anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from robustdet.data.sampler import InOrder, ResumableLoader
from robustdet.errors import InputError
from robustdet.interop.classes import require_same_classes
from robustdet.interop.torch_items import Sample, sample
from robustdet.types import Batch

RENUMBERED = "a data set whose labels count in the detector's order, and whose `classes` are its names, will do"
BACKGROUND = ("background", "__background__")  # a first name that is none of an object, as torchvision's tutorials have


class TorchData(LightningDataModule):
    """A map-style data set as the test split of an evaluation, in one process.

    An item is ``(image, target)``. The image is a float tensor [3, H, W] in [0, 1], a uint8 tensor [3, H, W] or a PIL
    image, of any size: it is stretched to the detector's input, as everywhere here. The target holds ``boxes`` [N, 4],
    xyxy in pixels of that image, and ``labels`` [N], whole numbers from 1 to C; it may hold ``iscrowd`` and
    ``difficult`` [N] of 0 and 1, which AP leaves out, and ``image_id``, a number or text of this image alone.

    Args:
        dataset: as above; a ``name`` of its own is that of the records' data.
        classes: names of labels 1..C as the detector has them. None: those of ``dataset.classes``, which are held to
            the detector's where both speak; without either, numbers up to ``num_classes``.
        num_classes: C.
        image_size: S of the detector's input, pixels.
        eval_batch_size: images that are attacked together.
    """

    metric: Literal["area"] = "area"  # AP at IoU 0.5, of the data that name no other

    def __init__(
        self,
        dataset: Any,
        classes: Sequence[str] | None,
        num_classes: int,
        image_size: int,
        eval_batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        kind = type(dataset).__name__
        can_be_indexed = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset | Mapping)
        if not (can_be_indexed and hasattr(dataset, "__len__")):
            of_batches = isinstance(dataset, DataLoader)
            instead = "give its .dataset" if of_batches else "a list of what an iterable one gives will do"
            raise InputError(
                f"data: {kind} has no length or cannot be indexed by place, expected a map-style data set (torch.utils."
                f"data.Dataset) of (image, {{boxes, labels}}): {instead}"
            )
        if not len(dataset):
            raise InputError(f"data: {kind} is empty, expected images")
        if eval_batch_size < 1:
            raise InputError(f"batch_size={eval_batch_size}: expected a whole number, 1 or more")
        self.name: str = str(getattr(dataset, "name", kind))
        theirs = names_of(dataset)
        if theirs is not None and classes is not None and theirs != list(classes):
            require_same_classes(list(classes), theirs, "the detector", self.name, RENUMBERED)
        self.classes = list(classes or theirs or map(str, range(1, num_classes + 1)))
        self.test_split, self.image_size, self.eval_batch_size = self.name, image_size, eval_batch_size
        self._seed, self._samples = seed, TorchSamples(dataset, self.name, self.classes, image_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        return ResumableLoader(
            self._samples,
            batch_size=self.eval_batch_size,
            sampler=InOrder(self._samples, self._seed),
            collate_fn=together,
        )


class TorchSamples(Dataset[Sample]):
    """What each item is here; indexed by (epoch, index), as our samplers do."""

    def __init__(self, dataset: Any, name: str, classes: Sequence[str], image_size: int) -> None:
        self.dataset, self.name, self.classes, self.image_size = dataset, name, classes, image_size
        self._places: dict[str, int] = {}  # by image id

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index = key[1]
        where = f"{self.name}[{index}]"
        try:
            item = self.dataset[index]
        except Exception as error:
            error.add_note(f"raised by {where}, as the data set reads it")
            raise
        image, target = sample(item, where, str(index), self.image_size, self.classes)
        first = self._places.setdefault(target.image_id, index)
        if first != index:
            raise InputError(
                f"{where}: image_id {target.image_id!r} is that of item {first} too, expected one of each image alone"
            )
        return image, target


def together(samples: Sequence[Sample]) -> Batch:
    return Batch(torch.stack([image for image, _ in samples]), [target for _, target in samples])


def names_of(dataset: Any) -> list[str] | None:
    """Of labels 1..C, where the data set has such: ``classes``, with or without a name for the background before.

    A `Subset` (`random_split`) has those of what it is taken from, a `ConcatDataset` those of its parts: InputError
    where they differ.
    """
    if isinstance(dataset, Subset):
        return names_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        of_parts = [names_of(part) for part in dataset.datasets]
        if any(names != of_parts[0] for names in of_parts):
            listed = "; ".join(f"{place}: {', '.join(names or ['none'])}" for place, names in enumerate(of_parts))
            raise InputError(f"data: parts of the ConcatDataset differ in their classes, expected the same ({listed})")
        return of_parts[0]
    names = getattr(dataset, "classes", None)
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(one, str) for one in names):
        return None
    return list(names[1:] if names and names[0].lower() in BACKGROUND else names)
