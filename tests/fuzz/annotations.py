"""Annotations and lists of images: VOC's XML, COCO's JSON; compared with who else reads them."""

from __future__ import annotations

import contextlib
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from pycocotools.coco import COCO as Official
from torchvision.datasets import VOCDetection

from robustdet.data.annotation import Annotation
from robustdet.data.coco import COCO
from robustdet.data.shapes import FORMS
from robustdet.data.shapes_set import Shapes
from robustdet.data.voc import VOC
from tests.fuzz.kinds import Kind
from tests.fuzz.mutations import mutated_text, mutated_value

SETTINGS: dict[str, Any] = {"seed": 3, "size": 64, "train": 4, "val": 1, "test": 1}


@dataclass
class Drawn:
    """One file of a drawn data set is damaged: an annotation of VOC's, a list of VOC's, or COCO's file."""

    name: str
    path: str

    def prepare(self, folder: Path) -> None:
        source = Shapes(folder, **SETTINGS)
        source.prepare()
        self.folder = source.folder
        self.file = self.folder / self.path
        self.content = self.file.read_text(encoding="utf-8")

    def damage(self, chance: random.Random) -> None:
        if self.file.suffix == ".json" and chance.random() < 0.6:
            self.file.write_text(json.dumps(mutated_value(json.loads(self.content), chance)), encoding="utf-8")
        else:
            self.file.write_bytes(mutated_text(self.content, chance))

    def read(self) -> None:
        is_coco = self.file.suffix == ".json"
        for annotation in read_coco(self.folder) if is_coco else read_voc(self.folder):
            require_sound(annotation)
            theirs = coco_boxes(self.file, annotation) if is_coco else voc_boxes(self.folder, annotation)
            if theirs is not None:
                require_same(annotation, theirs)


def read_voc(folder: Path) -> list[Annotation]:
    source = VOC(folder, classes=list(FORMS))
    source.prepare()
    return source.annotations("train") or []


def read_coco(folder: Path) -> list[Annotation]:
    file, images = "annotations/instances_train.json", "JPEGImages"
    source = COCO(folder, train=[file, images], val=[file, images], test=[file, images])
    source.prepare()
    assert all(isinstance(name, str) for name in source.classes)
    return source.annotations("train") or []


def require_sound(annotation: Annotation) -> None:
    """What every later step takes for granted."""
    height, width = annotation.size
    boxes = annotation.boxes
    assert boxes.dtype == np.float32
    assert np.isfinite(boxes).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all(), boxes
    assert (boxes >= 0).all(), boxes
    assert (boxes <= [width, height, width, height]).all(), boxes
    assert annotation.image_path.is_file()
    assert (annotation.labels >= 1).all()
    assert (annotation.labels <= len(FORMS)).all() or annotation.image_path.suffix


def require_same(annotation: Annotation, theirs: np.ndarray) -> None:
    """``theirs`` are all boxes of the image, as another reader has them; ours leave out those without area."""
    height, width = annotation.size
    clipped = theirs.clip(0, np.array([width, height, width, height], np.float64))
    area = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    expected = clipped[area].astype(np.float32)
    if len(expected) != len(annotation.boxes):  # areas that float32 loses, for example
        assert len(annotation.boxes) + annotation.dropped == len(theirs), (annotation, theirs)
        return
    np.testing.assert_allclose(annotation.boxes, expected, atol=1e-3)


def voc_boxes(folder: Path, annotation: Annotation) -> np.ndarray | None:
    """As torchvision parses the XML; None where it does not."""
    try:
        tree = ElementTree.parse(folder / "Annotations" / f"{annotation.image_id}.xml").getroot()
        parsed = VOCDetection.parse_voc_xml(tree)["annotation"].get("object", [])
        boxes = [[float(one["bndbox"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax")] for one in parsed]
    except (KeyError, TypeError, ValueError, AttributeError, ElementTree.ParseError, LookupError):
        return None
    found = np.array(boxes, np.float64).reshape(-1, 4)
    return found - [1, 1, 0, 0] if np.isfinite(found).all() else None


def coco_boxes(file: Path, annotation: Annotation) -> np.ndarray | None:
    """As pycocotools finds them; None where it does not."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            official = Official(str(file))
        (image,) = [one for one in official.dataset["images"] if str(one["id"]) == annotation.image_id]
        objects = official.loadAnns(official.getAnnIds(imgIds=[image["id"]]))
        boxes = np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError):
        return None
    boxes[:, 2:] += boxes[:, :2]
    return boxes if np.isfinite(boxes).all() else None


KINDS: list[Kind] = [
    Drawn("VOC annotation", "Annotations/train_00000.xml"),
    Drawn("list of images", "ImageSets/Main/train.txt"),
    Drawn("COCO annotations", "annotations/instances_train.json"),
]
