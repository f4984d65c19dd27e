"""The LightningDataModule over any data source: who is trained on, monitored on and measured on, and in what order."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from robustdet.data.annotation import Annotation, DataSource, Split
from robustdet.data.augmentation import Augmentation
from robustdet.data.checking import available_cores, with_sound_images
from robustdet.data.dataset import DetectionDataset, collate
from robustdet.data.problems import Fault, Problem, Problems
from robustdet.data.sampler import EpochSampler, InOrder, ResumableLoader
from robustdet.errors import InputError, RobustdetError
from robustdet.types import Batch

log = logging.getLogger(__name__)


class DetectionDataModule(LightningDataModule):
    """Batches of ``image_size`` x ``image_size`` pixels in [0, 1] with targets in the same pixels.

    Training leaves out images without a learnable object, on which SSD has no loss, and the last incomplete batch;
    validation and test keep every image.

    Args:
        source: ``source(root=..., download=...)`` gives the DataSource: VOC, COCO, Shapes.
        root: the folder of the data.
        download: fetch the official archives when they are missing.
        image_size: height and width handed to the detector, pixels.
        batch_size: images per training step, of all processes together: each has its share.
        eval_batch_size: images per batch of validation and test.
        augmentation: applied to training images only; None is none.
        num_workers: processes that read images; as many as there are cores where those are fewer.
        seed: of order and augmentation.
        val_share: where the source has no validation split, this share of the training images is set apart to
            monitor on, by a hash of the image id; 0 sets none apart.
        on_problem: what a fault of the data does (`robustdet.data.problems`). "error" ends the run before it begins;
            "skip" leaves out the objects and images that have one, counted in the log and in ``test_split``, for which
            it decodes every image at the start.
        check: whether the commands list all problems before they begin (`robustdet.cli.data_check`).
    """

    def __init__(
        self,
        source: Callable[..., DataSource],
        root: str | Path,
        image_size: int,
        batch_size: int,
        eval_batch_size: int,
        augmentation: Augmentation | None = None,
        download: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        val_share: float = 0.0,
        on_problem: str = "error",
        check: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= val_share < 1:
            raise InputError(f"val_share is a share of the training images, 0 <= val_share < 1, not {val_share}.")
        self.source = source(root=root, download=download)
        self.name: str = self.source.name
        self.image_size = image_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.augmentation = augmentation
        self.num_workers = min(num_workers, available_cores())
        self.seed = seed
        self.val_share = val_share
        self.check = check
        self.on_problem = Problems(on_problem).policy
        self._sets: dict[str, DetectionDataset] = {}
        self._left_out = ""  # of the test split

    @property
    def metric(self) -> Literal["voc", "coco", "area"]:
        """Whose average precision is the headline on this data."""
        return self.source.metric

    @property
    def test_split(self) -> str:
        return self.source.test_split + self._left_out

    @property
    def classes(self) -> list[str]:
        """Names of the labels 1..C. Available at once: makes the data exist where they are read from it."""
        self.source.prepare()
        return self.source.classes

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Read the annotations of the splits that a stage needs (None: all), once."""
        self.source.prepare()
        if stage in (None, "fit", "validate") and "train" not in self._sets:
            train, val = self._training_and_validation()
            learnable = [annotation for annotation in train if annotation.is_learnable]
            if not learnable:
                raise InputError(f"{self.name}: none of the {len(train)} training images has an object to learn.")
            self._sets["train"] = DetectionDataset(learnable, self.image_size, self.augmentation, self.seed)
            self._sets["val"] = DetectionDataset(val, self.image_size)
            log.info("%s: training on %s", self.name, _summary(learnable))
            log.info("%s: left out of training %s", self.name, _summary([a for a in train if not a.is_learnable]))
            log.info("%s: monitoring on %s", self.name, _summary(val))
        if stage in (None, "test", "predict") and "test" not in self._sets:
            problems = Problems(self.on_problem)
            test = self._read("test", problems)
            problems.settle()
            if test is None:
                raise InputError(f"{self.name} has no test split.")
            if not test:
                raise InputError(f"{self.test_split}: none of its images is without a fault.")
            if problems.faults:
                self._left_out = f", less what has a fault ({len(problems.faults)})"
            self._sets["test"] = DetectionDataset(test, self.image_size)
            log.info("%s: measuring on %s", self.test_split, _summary(test))

    def problems(self) -> Problems:
        """Everything that is wrong with all splits, notices too; every image is decoded.

        An image that is in two splits is a notice: some data sets are made so, and most are not.
        """
        self.source.prepare()
        found = Problems("skip")
        splits: dict[Path, str] = {}
        for split in get_args(Split):
            try:
                for one in self._read(split, found, decode=True) or []:
                    first = splits.setdefault(one.image_path, split)
                    if first != split:
                        expected = f"one split, and it is in {first} too"
                        found.add(one.image_path, f"image {one.image_id}", "its split", split, expected, notice=True)
            except Fault as fault:
                found.report(fault.problem)
            except RobustdetError as error:
                found.report(Problem(self.name, f"split {split}", "", f"cannot be read: {error}", "a readable split"))
        return found

    def _read(self, split: Split, problems: Problems, decode: bool | None = None) -> list[Annotation] | None:
        """The sound images of a split, of which files are decoded where faults are to be left out."""
        annotations = self.source.annotations(split, problems)
        if annotations is not None:
            decoded = self.on_problem == "skip" if decode is None else decode
            annotations = with_sound_images(annotations, problems, decoded)
        return annotations

    def content(self) -> str:
        """Hex digest of what is learnt from: names of classes; of each training image its id, size, objects and file.

        Where the files lie, and what they are called, does not count. Reads all of them: some seconds for VOC.
        """
        self.setup("fit")
        annotations = self._sets["train"].annotations
        with ThreadPoolExecutor(available_cores()) as pool:
            files = pool.map(file_digest, [annotation.image_path for annotation in annotations])
            digest = hashlib.sha256("\n".join(self.classes).encode())
            for annotation, file in zip(annotations, files, strict=True):
                digest.update(f"{annotation.image_id}\n{tuple(annotation.size)}\n{file}".encode())
                for name in ("boxes", "labels", "difficult", "crowd"):
                    digest.update(getattr(annotation, name).tobytes())
        return digest.hexdigest()[:16]

    def train_dataloader(self) -> DataLoader[Batch]:
        if len(self._sets["train"]) < self.batch_size:
            raise InputError(
                f"{self.name}: {len(self._sets['train'])} training images do not fill one batch of {self.batch_size}."
            )
        processes = self.trainer.world_size if self.trainer else 1
        if self.batch_size % processes:
            below = self.batch_size - self.batch_size % processes
            sizes = [size for size in (below, below + processes) if size]
            raise InputError(
                f"data.batch_size={self.batch_size} is of all {processes} processes together and does not divide by "
                f"them: data.batch_size={' or '.join(map(str, sizes))} does, and so do "
                f"{', '.join(str(n) for n in range(1, self.batch_size + 1) if self.batch_size % n == 0)} processes"
            )
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0  # Lightning's: the same batches again and again
        return self._loader("train", self.batch_size // processes, shuffle=not overfit, drop_last=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        return self._loader("val", self.eval_batch_size, shuffle=False) if len(self._sets["val"]) else []

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader("test", self.eval_batch_size, shuffle=False)

    def _training_and_validation(self) -> tuple[list[Annotation], Sequence[Annotation]]:
        problems = Problems(self.on_problem)
        train = self._read("train", problems) or []
        val = self._read("val", problems)
        problems.settle()
        if val is not None:
            return train, val
        held_out = {a.image_id for a in train if hash_share(a.image_id) < self.val_share}
        return (
            [annotation for annotation in train if annotation.image_id not in held_out],
            [annotation for annotation in train if annotation.image_id in held_out],
        )

    def _loader(self, split: str, batch_size: int, shuffle: bool, drop_last: bool = False) -> DataLoader[Batch]:
        dataset = self._sets[split]
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        shares = (self.seed, replicas, rank)
        return ResumableLoader(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(dataset, True, *shares) if shuffle else InOrder(dataset, *shares),
            num_workers=self.num_workers,
            collate_fn=collate,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_begin_worker,
            generator=torch.Generator().manual_seed(self.seed),  # else the global one would be drawn from
        )


def file_digest(path: Path) -> str:
    """Hex digest of the bytes of a file; read anew only where its size or its time of change is another."""
    stat = path.stat()
    return _file_digest(path, stat.st_size, stat.st_mtime_ns)


@cache
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _summary(annotations: Sequence[Annotation]) -> str:
    """Such as "205 images, 2804 objects (0 difficult, 0 crowd), 1 dropped"."""
    objects, difficult, crowd, dropped = (
        sum(int(count(annotation)) for annotation in annotations)
        for count in (
            lambda a: len(a.labels),
            lambda a: a.difficult.sum(),
            lambda a: a.crowd.sum(),
            lambda a: a.dropped,
        )
    )
    text = f"{len(annotations)} images, {objects} objects ({difficult} difficult, {crowd} crowd)"
    return f"{text}, {dropped} dropped" if dropped else text


def hash_share(image_id: str) -> float:
    """A number in [0, 1) that belongs to an image for good, whatever else is in its data set."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") / 2**64


def _begin_worker(worker: int) -> None:
    """The workers share the processor already. What a terminal tells all processes is the first one's affair, but they
    end with it."""
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)


def _end_with(parent: int) -> None:
    """Torch's workers look for their parent too, but one that is writing a batch into its pipe then waits for ever."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)
