"""From an annotation to a sample, and from samples to a batch. A sample depends on (seed, epoch, image id) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from robustdet.data.annotation import Annotation
from robustdet.data.augmentation import Augmentation
from robustdet.data.pixels import read_pixels, stretched
from robustdet.types import Batch, Target

Sample = tuple[UInt8[Tensor, "3 S S"] | Float32[Tensor, "3 S S"], Target]


class DetectionDataset(Dataset[Sample]):
    """Samples of one size: [3, S, S] in 0..255 and a target in pixels of the resized image.

    Pixels are bytes, or the floats that an augmentation made of them.

    An image is stretched to S x S without keeping its aspect ratio, as SSD does. Indexed by (epoch, index), which is
    what ``EpochSampler`` yields; a plain index means epoch 0.
    """

    def __init__(
        self,
        annotations: Sequence[Annotation],
        image_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.annotations = annotations
        self.image_size = image_size
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        annotation = self.annotations[index]
        image, size = read_pixels(annotation.image_path, self.image_size, annotation.size)
        boxes, kept = annotation.boxes, np.arange(len(annotation.boxes))
        if image.shape[:2] != size:  # a large photograph, reduced
            boxes = boxes * scale(size, image.shape[:2])
        if self.augmentation is not None:
            rng = sample_rng(self.seed, epoch, annotation.image_id)
            image, boxes, kept = self.augmentation(image, replace(annotation, boxes=boxes, size=image.shape[:2]), rng)
        boxes = boxes * scale(image.shape[:2], (self.image_size, self.image_size))
        image = stretched(image, self.image_size)
        target = Target(
            boxes=torch.from_numpy(boxes),
            labels=torch.from_numpy(annotation.labels[kept]),
            difficult=torch.from_numpy(annotation.difficult[kept]),
            crowd=torch.from_numpy(annotation.crowd[kept]),
            image_id=annotation.image_id,
            original_size=annotation.size,
        )
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), target


def scale(size: tuple[int, int], new: tuple[int, int]) -> Float32[np.ndarray, "4"]:
    """What boxes of an image of this (height, width) are multiplied by when the image is stretched to another."""
    return np.array([new[1] / size[1], new[0] / size[0]] * 2, dtype=np.float32)


def sample_rng(seed: int, epoch: int, image_id: str) -> np.random.Generator:
    """One image's own generator, the same for any number of workers and after any resume."""
    digest = hashlib.sha256(image_id.encode()).digest()
    return np.random.default_rng([seed, epoch, int.from_bytes(digest[:8], "little")])


@dataclass
class Loaded:
    """A batch on its way from the process that read it to the one that uses it: arrays, no tensors.

    Tensors would travel in shared memory, of which a container has 64 MB unless told otherwise, and a worker that finds
    none left does not come back. Arrays are written to a pipe. ``images`` [B, 3, S, S] are bytes, a quarter of what
    floats take, or the floats that an augmentation made of them, which bytes cannot hold: `PhotometricDistortion`'s lie
    between and outside 0..255. The objects of all images lie one after the other; ``counts`` says whose they are.
    """

    images: UInt8[np.ndarray, "B 3 S S"] | Float32[np.ndarray, "B 3 S S"]
    boxes: Float32[np.ndarray, "N 4"]
    labels: Int64[np.ndarray, "N"]
    difficult: Bool[np.ndarray, "N"]
    crowd: Bool[np.ndarray, "N"]
    counts: list[int]
    image_ids: list[str]
    original_sizes: list[tuple[int, int]]

    def batch(self) -> Batch:
        """Images as floats, 1 for 255. Targets are views of four tensors of the whole batch."""
        images = torch.from_numpy(self.images).float().div_(255)
        objects = zip(
            *(torch.from_numpy(part).split(self.counts) for part in (self.boxes, self.labels)),
            *(torch.from_numpy(part).split(self.counts) for part in (self.difficult, self.crowd)),
            self.image_ids,
            self.original_sizes,
            strict=True,
        )
        return Batch(images, [Target(*each) for each in objects])

    def pin_memory(self) -> Batch:
        """What torch asks for in a thread of its own where batches go to a GPU."""
        return self.batch().pin_memory()


def collate(samples: Sequence[Sample]) -> Loaded:
    targets = [target for _, target in samples]
    boxes, labels, difficult, crowd = (
        torch.cat([getattr(target, field) for target in targets]).numpy()
        for field in ("boxes", "labels", "difficult", "crowd")
    )
    return Loaded(
        np.stack([image.numpy() for image, _ in samples]),
        boxes,
        labels,
        difficult,
        crowd,
        [len(target.labels) for target in targets],
        [target.image_id for target in targets],
        [target.original_size for target in targets],
    )
