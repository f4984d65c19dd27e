from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from functools import partial
from multiprocessing import active_children
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from robustdet.data.annotation import DataSource
from robustdet.data.augmentation import Augmentation, IoUCrop, PhotometricDistortion
from robustdet.data.coco import COCO
from robustdet.data.datamodule import DetectionDataModule, hash_share
from robustdet.data.sampler import of_dead_worker
from robustdet.data.shapes_set import Shapes
from robustdet.data.voc import VOC
from robustdet.types import Batch


def flips() -> Augmentation:
    return Augmentation([A.HorizontalFlip(p=0.5), IoUCrop()])


def module_over(source: DataSource, **settings: Any) -> DetectionDataModule:
    defaults: dict[str, Any] = {"image_size": 32, "batch_size": 4, "eval_batch_size": 5}
    return DetectionDataModule(lambda root, download: source, root="unused", **{**defaults, **settings})


def contents(batches: Iterable[Batch]) -> list[tuple[str, bytes, bytes]]:
    return [
        (target.image_id, image.numpy().tobytes(), target.boxes.numpy().tobytes())
        for batch in batches
        for image, target in zip(batch.images, batch.targets, strict=True)
    ]


def test_batches_speak_the_vocabulary(shapes: Shapes) -> None:
    module = module_over(shapes, augmentation=flips())
    module.setup()
    batches = list(module.train_dataloader())
    learnable = sum(annotation.is_learnable for annotation in shapes.annotations("train") or [])
    assert len(batches) == learnable // 4
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.images.shape == (4, 3, 32, 32)
        assert batch.images.dtype == torch.float32
        assert 0 <= batch.images.min() < 0.5 < batch.images.max() <= 1
        for target in batch.targets:
            assert target.boxes.dtype == torch.float32
            assert target.labels.dtype == torch.int64
            assert target.difficult.dtype == target.crowd.dtype == torch.bool
            assert target.original_size == (48, 48)
            assert target.boxes.min() >= 0
            assert target.boxes.max() <= 32


def test_images_are_stretched_and_boxes_with_them(tmp_path: Path, voc_image) -> None:
    voc_image(tmp_path, "a", [("cat", (7, 11, 30, 40), 0)], "test", size=(40, 60))
    pixels = np.full((40, 60, 3), 255, dtype=np.uint8)
    pixels[10:40, 6:30] = 0
    Image.fromarray(pixels).save(tmp_path / "JPEGImages" / "a.jpg", quality=100)
    module = module_over(VOC(tmp_path), image_size=120)
    module.setup("test")
    (batch,) = module.test_dataloader()
    left, top, right, bottom = batch.targets[0].boxes[0].tolist()
    assert (left, top, right, bottom) == (12, 30, 60, 120)
    assert batch.targets[0].original_size == (40, 60)
    dark = (batch.images[0, 0] < 0.5).nonzero()
    assert dark.amin(dim=0).tolist() == [30, 12]
    assert (dark.amax(dim=0) + 1).tolist() == [120, 60]


def test_evaluation_reads_pixels_as_they_are_and_keeps_every_image(coco_root: Path) -> None:
    module = module_over(COCO(coco_root), batch_size=2)
    module.setup()
    (batch,) = module.test_dataloader()
    assert [target.image_id for target in batch.targets] == ["139", "7", "25"]
    assert [len(target.labels) for target in batch.targets] == [2, 1, 0]
    assert batch.targets[0].crowd.tolist() == [False, True]
    (train,) = module.train_dataloader()
    assert {target.image_id for target in train.targets} == {"139", "7"}
    assert module.val_dataloader() == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_change_nothing(shapes: Shapes, num_workers: int) -> None:
    alone, helped = (module_over(shapes, augmentation=flips(), num_workers=n, seed=4) for n in (0, num_workers))
    loaders = []
    for module in (alone, helped):
        module.setup("fit")
        loaders.append(module.train_dataloader())
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        first, second = (contents(loader) for loader in loaders)
        assert first == second


def test_epochs_and_seeds_differ_in_order_and_augmentation(shapes: Shapes) -> None:
    passes = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        module = module_over(shapes, augmentation=flips(), seed=seed)
        module.setup("fit")
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        passes.append(contents(loader))
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        assert [image_id for image_id, *_ in passes[i]] != [image_id for image_id, *_ in passes[j]]
        mine, other = ({image_id: rest for image_id, *rest in passes[k]} for k in (i, j))
        assert sum(mine[image_id] != other[image_id] for image_id in mine.keys() & other.keys()) > 5


def test_floats_of_an_augmentation_reach_the_batch_as_they_are(shapes: Shapes) -> None:
    module = module_over(shapes, augmentation=Augmentation([PhotometricDistortion(), IoUCrop()]))
    module.setup()
    images = torch.cat([batch.images for batch in module.train_dataloader()])
    assert images.dtype == torch.float32
    assert images.min() < -0.05
    assert images.max() > 1.2
    assert 0.2 < images.mean() < 0.8
    evaluated = next(iter(module.test_dataloader())).images
    assert evaluated.min() >= 0
    assert evaluated.max() <= 1


def test_the_global_generator_is_left_alone(shapes: Shapes) -> None:
    module = module_over(shapes, augmentation=flips())
    module.setup()
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    list(module.train_dataloader())
    list(module.test_dataloader())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # noqa: NPY002


def test_a_share_is_held_out_for_good_where_there_is_no_validation_split(tmp_path: Path, voc_image) -> None:
    for index in range(40):
        voc_image(tmp_path, f"{index:06d}", [("cat", (1, 1, 9, 9), 0)], "train")
    voc_image(tmp_path, "t", [("cat", (1, 1, 9, 9), 0)], "test")

    def ids(module: DetectionDataModule) -> tuple[set[str], set[str]]:
        module.setup("fit")
        held_out = {target.image_id for batch in module.val_dataloader() for target in batch.targets}
        return {target.image_id for batch in module.train_dataloader() for target in batch.targets}, held_out

    train, held_out = ids(module_over(VOC(tmp_path), val_share=0.25, batch_size=1))
    assert train | held_out == {f"{index:06d}" for index in range(40)}
    assert not train & held_out
    assert held_out == {f"{index:06d}" for index in range(40) if hash_share(f"{index:06d}") < 0.25}
    assert 4 <= len(held_out) <= 16
    assert ids(module_over(VOC(tmp_path), val_share=0.25, batch_size=1, seed=7))[1] == held_out
    assert ids(module_over(VOC(tmp_path), val_share=0.0, batch_size=1))[1] == set()


def test_what_a_run_asks_before_it_starts(tmp_path: Path) -> None:
    source = partial(Shapes, size=48, train=4, val=1, test=1)
    module = DetectionDataModule(source, tmp_path, image_size=48, batch_size=2, eval_batch_size=2)
    assert module.classes == ["cross", "disc", "ring", "square", "star", "triangle"]
    assert (module.name, module.metric) == ("shapes", "area")
    assert module.test_split.startswith("shapes: test")


def test_settings_that_cannot_work_say_so(shapes: Shapes, tmp_path: Path, voc_image) -> None:
    with pytest.raises(ValueError, match=r"0 <= val_share < 1, not 2"):
        module_over(shapes, val_share=2.0)
    module = module_over(shapes, batch_size=64)
    module.setup("fit")
    with pytest.raises(ValueError, match=r"shapes: \d+ training images do not fill one batch of 64"):
        module.train_dataloader()
    voc_image(tmp_path, "a", [("cat", (1, 1, 9, 9), 1)], "train")
    with pytest.raises(ValueError, match=r"none of the 1 training images has an object to learn"):
        module_over(VOC(tmp_path)).setup("fit")


def test_a_worker_hands_over_bytes_and_no_tensors(shapes: Shapes) -> None:
    """Tensors would take shared memory; images are one byte a value, or the floats that an augmentation made."""
    sizes = {}
    for name, augmentation in {"bytes": flips(), "floats": Augmentation([PhotometricDistortion()])}.items():
        module = module_over(shapes, batch_size=8, augmentation=augmentation)
        module.setup("fit")
        loader = module.train_dataloader()
        loaded = loader.collate_fn([loader.dataset[index] for index in range(8)])
        assert not any(isinstance(part, torch.Tensor) for part in vars(loaded).values())
        sizes[name] = len(ForkingPickler.dumps(loaded))
        assert isinstance(loaded.batch(), Batch)
    values = 8 * 3 * 32 * 32
    assert values < sizes["bytes"] < 1.3 * values
    assert 4 * values < sizes["floats"] < 4.3 * values


def test_a_dead_worker_ends_the_run_with_a_reason(shapes: Shapes) -> None:
    module = module_over(shapes, num_workers=1)
    module.setup("fit")
    batches = iter(module.train_dataloader())
    next(batches)
    (worker,) = active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid\(?s?\)? ?{worker.pid}\)"):
        list(batches)


def test_a_dead_worker_is_told_wherever_torch_says_so() -> None:
    told = of_dead_worker(RuntimeError("DataLoader worker (pid 4388) is killed by signal: Killed. "))
    assert told is not None
    assert "a process that reads images has died: DataLoader worker (pid 4388)" in str(told)
    assert of_dead_worker(RuntimeError("CUDA out of memory")) is None
