"""PASCAL VOC as a data source: a ``VOCdevkit`` with year folders, or one bare folder with classes of its own.

M. Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from robustdet.data.annotation import Annotation, Split
from robustdet.data.download import VOC_ARCHIVES, fetch
from robustdet.data.files import one_form
from robustdet.data.problems import Problems
from robustdet.data.voc_folder import VOCFolder
from robustdet.errors import InputError, MissingFileError

# fmt: off
VOC_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]
# fmt: on


class VOC:
    """VOC 2007, 2012, both, or any folder in their layout.

    Args:
        root: a folder with ``VOC2007``/``VOC2012`` (or a ``VOCdevkit`` with them), or with ``JPEGImages`` itself.
        download: fetch the official archives of the missing years that the splits name.
        train: splits to train on, ``[[year, split], ...]`` for a devkit, ``[split, ...]`` for a bare folder;
            None is the trainval splits of ``train_years``, or a bare folder's ``train``.
        val: splits to monitor on; None is a bare folder's ``val`` where it has one.
        test: splits to measure on; None is 07 test, or a bare folder's ``test``.
        classes: names of the labels 1..C; None is VOC's 20, or a bare folder's own names, alphabetically. A detector's
            own (an error shows them) measure it on a folder that has some of them only, or in another order.
        train_years: of a devkit; a bare folder has none.
    """

    metric: Literal["voc", "coco", "area"] = "voc"

    def __init__(
        self,
        root: str | Path,
        download: bool = False,
        train: Sequence[Sequence[int | str] | str] | None = None,
        val: Sequence[Sequence[int | str] | str] | None = None,
        test: Sequence[Sequence[int | str] | str] | None = None,
        classes: Sequence[str] | None = None,
        train_years: Sequence[int] = (2007, 2012),
    ) -> None:
        self.root = Path(root).expanduser()
        self.name = self.root.resolve().name
        self.download = download
        self._chosen: dict[str, Sequence[Sequence[int | str] | str] | None] = {"train": train, "val": val, "test": test}
        self._classes = None if classes is None else [one_form(str(name)) for name in classes]
        self.train_years = tuple(train_years)
        self._folders: dict[Path, VOCFolder] = {}

    @property
    def is_bare(self) -> bool:
        return (self.root / "JPEGImages").is_dir()

    @property
    def classes(self) -> list[str]:
        if self._classes is None:
            self._classes = self._folder(self.root).class_names if self.is_bare else list(VOC_CLASSES)
        return self._classes

    @property
    def test_split(self) -> str:
        return f"{self.name}: {self._describe('test')}"

    def prepare(self) -> None:
        wanted = {(year, name) for split in self._chosen for year, name in self._splits(split) if year is not None}
        if self.download:
            self._fetch(wanted)
        missing = sorted({f"VOC{year}" for year, _ in wanted if not self._year_folder(year).is_dir()})
        if missing:
            raise MissingFileError(
                f"No {' and no '.join(missing)} in {self.root}: looked there, in {self.root / 'VOCdevkit'}, and for a "
                f"bare folder's JPEGImages. data.root=PATH names another folder, data.download=true fetches the "
                f"official archives, data.source.train='[[2007,trainval]]' trains on 2007 alone."
            )

    def _fetch(self, wanted: set[tuple[int, str]]) -> None:
        keys = {(year, "test" if name == "test" else "trainval"): (year, name) for year, name in sorted(wanted)}
        for key, (year, name) in keys.items():
            present = name in self._folder(self._year_folder(year)).splits
            if key in VOC_ARCHIVES and (not present or VOC_ARCHIVES[key].is_unfinished(self.root)):
                fetch(VOC_ARCHIVES[key], self.root)
            elif not present:
                raise InputError(
                    f"VOC{year} {name} is not in {self.root}, and is in no archive that can be downloaded."
                )

    def annotations(self, split: Split, problems: Problems | None = None) -> list[Annotation] | None:
        splits = self._splits(split)
        if not splits:
            return None
        told = Problems() if problems is None else problems
        found: dict[str, Annotation | None] = {}
        for year, name in splits:
            folder = self._folder(self.root if year is None else self._year_folder(year))
            for image_id in folder.ids(name, told):
                if image_id in found:
                    raise InputError(f"Image {image_id} is twice in {self._describe(split)}: its splits overlap.")
                found[image_id] = folder.annotation(image_id, self.classes, told)
        if problems is None:
            told.settle()
        return [annotation for annotation in found.values() if annotation is not None]

    def _splits(self, split: str) -> list[tuple[int | None, str]]:
        """(year, split file) pairs; a bare folder's year is None."""
        chosen = self._chosen[split]
        if self.is_bare:
            if chosen is None and split == "val":
                return [(None, "val")] if "val" in self._folder(self.root).splits else []
            names = [split] if chosen is None else list(chosen)
            if not all(isinstance(name, str) for name in names):
                raise InputError(f"{self.root} is a bare VOC folder: {split} wants names, [train, val], not {names}.")
            return [(None, str(name)) for name in names]
        if chosen is None:
            default: dict[str, list[tuple[int | None, str]]] = {
                "train": [(year, "trainval") for year in self.train_years],
                "val": [],
                "test": [(2007, "test")],
            }
            return default[split]
        pairs = [pair for pair in chosen if not isinstance(pair, str) and len(pair) == 2]
        if len(pairs) != len(chosen):
            raise InputError(
                f"{self.root} has year folders: {split} wants [[2007, trainval], ...], not {list(chosen)}."
            )
        return [(int(year), str(name)) for year, name in pairs]

    def _describe(self, split: str) -> str:
        return " + ".join(name if year is None else f"VOC{year} {name}" for year, name in self._splits(split))

    def _year_folder(self, year: int) -> Path:
        inside = self.root / "VOCdevkit" / f"VOC{year}"
        return inside if inside.is_dir() else self.root / f"VOC{year}"

    def _folder(self, path: Path) -> VOCFolder:
        return self._folders.setdefault(path, VOCFolder(path))
