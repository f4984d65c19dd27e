"""PASCAL VOC's layout: a ``VOCdevkit`` with year folders, or one bare folder with classes of its own.

VOC's pixels are 1-based and its boxes inclusive, so (xmin, ymin, xmax, ymax) = (1, 1, 640, 480) covers a whole
640 x 480 image; here it becomes (0, 0, 640, 480): (xmin - 1, ymin - 1, xmax, ymax), upper edge exclusive.

M. Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from PIL import Image

from robustdet.data.annotation import Annotation, Split, annotate, unknown
from robustdet.data.download import VOC_ARCHIVES, fetch

# fmt: off
VOC_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]
# fmt: on
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class VOCFolder:
    """One folder with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``. A file is parsed once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parsed: dict[str, ElementTree.Element] = {}

    def ids(self, split: str) -> list[str]:
        """Image ids of a split.

        Raises FileNotFoundError for a split without a file, naming those that exist; ValueError for an empty one.
        """
        folder = self.path / "ImageSets" / "Main"
        file = folder / f"{split}.txt"
        if not file.is_file():
            existing = ", ".join(self.splits) or "none at all"
            raise FileNotFoundError(f"{self.path} has no split {split!r} ({file} is missing). It has: {existing}.")
        ids = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not ids:
            raise ValueError(f"{file} lists no image.")
        return ids

    @property
    def splits(self) -> list[str]:
        return sorted(file.stem for file in (self.path / "ImageSets" / "Main").glob("*.txt"))

    @cached_property
    def class_names(self) -> list[str]:
        """All names in ``Annotations``, alphabetically."""
        files = sorted((self.path / "Annotations").glob("*.xml"))
        return sorted({self._name(file.stem, i, obj) for file in files for i, obj in self._objects(file.stem)})

    def annotation(self, image_id: str, classes: Sequence[str]) -> Annotation:
        """Read one image's objects. Every error names the file, and the object where there is one."""
        file = self._file(image_id)
        image_path = self._image_path(image_id)
        objects = []
        for index, obj in self._objects(image_id):
            name = self._name(image_id, index, obj)
            if name not in classes:
                raise ValueError(f"{file}: object {index} is a {name!r}, no class here.{unknown(name, classes)}")
            box = self._box(image_id, index, obj)
            objects.append((box, classes.index(name) + 1, (obj.findtext("difficult") or "0").strip() == "1", False))
        annotation = annotate(image_path, image_id, self._size(image_id, image_path), objects, file)
        del self._parsed[image_id]  # a tree takes far more memory than what was read from it
        return annotation

    def _file(self, image_id: str) -> Path:
        return self.path / "Annotations" / f"{image_id}.xml"

    def _root(self, image_id: str) -> ElementTree.Element:
        if image_id not in self._parsed:
            file = self._file(image_id)
            try:
                self._parsed[image_id] = ElementTree.parse(file).getroot()
            except ElementTree.ParseError as error:
                raise ValueError(f"{file} is no well-formed XML (cut short?): {error}") from error
            except FileNotFoundError:
                raise FileNotFoundError(f"Image {image_id} has no annotation: {file} is missing.") from None
        return self._parsed[image_id]

    def _objects(self, image_id: str) -> list[tuple[int, ElementTree.Element]]:
        return list(enumerate(self._root(image_id).findall("object")))

    def _name(self, image_id: str, index: int, obj: ElementTree.Element) -> str:
        name = (obj.findtext("name") or "").strip()
        if not name:
            raise ValueError(f"{self._file(image_id)}: object {index} has no <name>.")
        return name

    def _box(self, image_id: str, index: int, obj: ElementTree.Element) -> tuple[float, float, float, float]:
        texts = {edge: obj.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")}
        try:
            xmin, ymin, xmax, ymax = (float(text or "") for text in texts.values())
        except ValueError:
            raise ValueError(f"{self._file(image_id)}: object {index} has no readable <bndbox>: {texts}.") from None
        if (
            xmax <= xmin or ymax <= ymin
        ):  # as published: a point or a line, not the one pixel that VOC's rule would make
            return xmin - 1, ymin - 1, xmin - 1, ymin - 1
        return xmin - 1, ymin - 1, xmax, ymax

    def _size(self, image_id: str, image_path: Path) -> tuple[int, int]:
        root = self._root(image_id)
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
        if height > 0 and width > 0:
            return height, width
        with Image.open(image_path) as image:  # some labelling tools write no size, or zeros
            return image.height, image.width

    @cached_property
    def _images(self) -> dict[str, Path]:
        folder = self.path / "JPEGImages"
        return {file.stem: file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}

    def _image_path(self, image_id: str) -> Path:
        if image_id not in self._images:
            wanted = self.path / "JPEGImages" / image_id
            raise FileNotFoundError(
                f"{self._file(image_id)}: no image {wanted} with one of {', '.join(IMAGE_SUFFIXES)}."
            )
        return self._images[image_id]


class VOC:
    """VOC 2007, 2012, both, or any folder in their layout.

    Args:
        root: a folder with ``VOC2007``/``VOC2012`` (or a ``VOCdevkit`` with them), or with ``JPEGImages`` itself.
        download: fetch the official archives of the missing years that the splits name.
        train: splits to train on, ``[[year, split], ...]`` for a devkit, ``[split, ...]`` for a bare folder;
            None is the trainval splits of ``train_years``, or a bare folder's ``train``.
        val: splits to monitor on; None is a bare folder's ``val`` where it has one.
        test: splits to measure on; None is 07 test, or a bare folder's ``test``.
        classes: names of the labels 1..C; None is VOC's 20, or a bare folder's own names, alphabetically.
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
        self._classes = None if classes is None else list(classes)
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
            raise FileNotFoundError(
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
                raise ValueError(
                    f"VOC{year} {name} is not in {self.root}, and is in no archive that can be downloaded."
                )

    def annotations(self, split: Split) -> list[Annotation] | None:
        splits = self._splits(split)
        if not splits:
            return None
        found: dict[str, Annotation] = {}
        for year, name in splits:
            folder = self._folder(self.root if year is None else self._year_folder(year))
            for image_id in folder.ids(name):
                if image_id in found:
                    raise ValueError(f"Image {image_id} is twice in {self._describe(split)}: its splits overlap.")
                found[image_id] = folder.annotation(image_id, self.classes)
        return list(found.values())

    def _splits(self, split: str) -> list[tuple[int | None, str]]:
        """(year, split file) pairs; a bare folder's year is None."""
        chosen = self._chosen[split]
        if self.is_bare:
            if chosen is None and split == "val":
                return [(None, "val")] if "val" in self._folder(self.root).splits else []
            names = [split] if chosen is None else list(chosen)
            if not all(isinstance(name, str) for name in names):
                raise ValueError(f"{self.root} is a bare VOC folder: {split} wants names, [train, val], not {names}.")
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
            raise ValueError(
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
