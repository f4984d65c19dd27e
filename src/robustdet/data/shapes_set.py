"""The embedded data set: drawn scenes on disk, in VOC's layout and COCO's at once, over the same image files."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from robustdet.data.annotation import Annotation, Split
from robustdet.data.problems import Problems
from robustdet.data.shapes import FORMS, Scene, draw_scene
from robustdet.data.voc import VOC
from robustdet.errors import InputError, MissingFileError
from robustdet.progress import ProgressBar

log = logging.getLogger(__name__)

A_DAY = 86400  # seconds
MANIFEST = "manifest.json"  # written last: a folder with it is complete
REVISION = 2  # of the drawing itself; raise it when the same settings would give other pixels


@dataclass(frozen=True)
class ShapesSettings:
    """All that the files depend on: ``size`` in pixels, and the number of images of each split."""

    seed: int = 0
    size: int = 96
    train: int = 2000
    val: int = 200
    test: int = 300
    revision: int = REVISION

    @property
    def folder_name(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.size}px-seed{self.seed}-{digest[:8]}"


class Shapes:
    """Drawn forms, the same files from the same settings on every machine.

    Each choice of settings has a folder of its own in ``root``, read as a bare VOC folder with splits train, val and
    test; ``annotations/instances_<split>.json`` hold the same in COCO's format.

    Args:
        root: where the folders are.
        download: taken for the sake of the other sources; there is nothing to download.
        seed: of the drawing, independent of a run's seed so that all runs see the same data.
        size: height and width of the images, in pixels.
        train, val, test: numbers of images.
        draw: whether files that are not there are drawn.
    """

    name = "shapes"
    metric: Literal["voc", "coco", "area"] = "area"  # VOC07's never falls below 1/11 while one object is found

    def __init__(
        self,
        root: str | Path,
        download: bool = False,
        seed: int = 0,
        size: int = 96,
        train: int = 2000,
        val: int = 200,
        test: int = 300,
        draw: bool = True,
    ) -> None:
        self.draw = draw
        self.settings = ShapesSettings(seed, size, train, val, test)
        self.folder = Path(root).expanduser() / self.settings.folder_name
        self._reader = VOC(self.folder, classes=list(FORMS))

    @property
    def classes(self) -> list[str]:
        return list(FORMS)

    @property
    def test_split(self) -> str:
        return f"shapes: test ({self.settings.folder_name})"

    def prepare(self) -> None:
        if (self.folder / MANIFEST).is_file():
            return
        if not self.draw:
            raise MissingFileError(
                f"{self.folder} is not there, and nothing is drawn where somebody else's config says: data.root=… says "
                "where these images are, or may be drawn"
            )
        draw_set(self.settings, self.folder)

    def annotations(self, split: Split, problems: Problems | None = None) -> list[Annotation] | None:
        return self._reader.annotations(split, problems)


def draw_set(settings: ShapesSettings, folder: Path) -> None:
    """Draw into a temporary neighbour and rename it, so that ``folder`` never holds a part of a set.

    Two processes may do so at once: they draw the same, and the first to finish wins.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder.parent} is no folder, or below a file: shapes cannot be drawn there") from error
    for left in folder.parent.glob(f".{folder.name}-*"):
        if time.time() - left.stat().st_mtime > A_DAY:  # a kill leaves its part behind; no drawing takes so long
            shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for part in ("JPEGImages", "Annotations", "ImageSets/Main", "annotations"):
            (partial / part).mkdir(parents=True)
        with ProgressBar(f"Drawing shapes into {folder}", settings.train + settings.val + settings.test) as bar:
            for split in get_args(Split):
                _draw_split(settings, split, partial, bar)
        (partial / MANIFEST).write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        if folder.exists() and not (folder / MANIFEST).is_file():
            shutil.rmtree(folder)  # someone took files out of it, the manifest among them
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / MANIFEST).is_file():  # not another process that was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _draw_split(settings: ShapesSettings, split: str, folder: Path, bar: ProgressBar) -> None:
    ids: list[str] = []
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for index in range(getattr(settings, split)):
        rng = np.random.default_rng([settings.seed, get_args(Split).index(split), index])
        scene = draw_scene(rng, settings.size)
        image_id = f"{split}_{index:05d}"
        Image.fromarray(scene.image).save(folder / "JPEGImages" / f"{image_id}.png")
        _voc_xml(image_id, scene).write(folder / "Annotations" / f"{image_id}.xml")
        ids.append(image_id)
        images.append(
            {"id": index + 1, "file_name": f"{image_id}.png", "height": settings.size, "width": settings.size}
        )
        objects += _coco_objects(index + 1, len(objects) + 1, scene)
        bar.advance(1, 1)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(
        "".join(f"{image_id}\n" for image_id in ids), encoding="utf-8"
    )
    categories = [{"id": label, "name": name, "supercategory": "form"} for label, name in enumerate(FORMS, start=1)]
    instances = {"info": asdict(settings), "images": images, "annotations": objects, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(instances), encoding="utf-8")


def _voc_xml(image_id: str, scene: Scene) -> ElementTree.ElementTree[ElementTree.Element]:
    root = ElementTree.Element("annotation")
    height, width = scene.image.shape[:2]
    _append(root, {"filename": f"{image_id}.png", "size": {"width": width, "height": height, "depth": 3}})
    for box, label, difficult in zip(scene.boxes, scene.labels, scene.difficult, strict=True):
        edges = dict(zip(("xmin", "ymin", "xmax", "ymax"), (box + np.array([1, 1, 0, 0])).tolist(), strict=True))
        _append(root, {"object": {"name": list(FORMS)[label - 1], "difficult": int(difficult), "bndbox": edges}})
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _append(parent: ElementTree.Element, children: dict[str, Any]) -> None:
    for tag, value in children.items():
        child = ElementTree.SubElement(parent, tag)
        if isinstance(value, dict):
            _append(child, value)
        else:
            child.text = str(value)


def _coco_objects(image_id: int, first_id: int, scene: Scene) -> Sequence[dict[str, Any]]:
    """COCO's records, with VOC's ``difficult`` as one more field."""
    return [
        {
            "id": first_id + i,
            "image_id": image_id,
            "category_id": int(scene.labels[i]),
            "bbox": [int(x1), int(y1), int(x2 - x1), int(y2 - y1)],
            "area": int(scene.areas[i]),
            "iscrowd": 0,
            "difficult": int(scene.difficult[i]),
        }
        for i, (x1, y1, x2, y2) in enumerate(scene.boxes)
    ]
