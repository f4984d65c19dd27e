"""Detections as the files that others' evaluations and viewers read: COCO's results, VOC's ``det_test_<class>.txt``.

Boxes are in pixels of the image files. They are not cut to them, so that another tool judges the very boxes that we do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.files import write_text
from robustdet.types import Detections, Target


@dataclass(frozen=True)
class Measured:
    """The images of an evaluation: ``targets`` by image id, in pixels of the detector's square input of ``side``.

    ``files`` are the images' own, by id; ``category_ids`` the file's numbers of labels 1..C, for a data set in COCO's
    format, None for one that has none: then they are 1..C.
    """

    targets: Mapping[str, Target]
    files: Mapping[str, Path]
    side: int
    classes: Sequence[str]
    category_ids: Sequence[int] | None = None

    @property
    def categories(self) -> list[int]:
        return list(range(1, len(self.classes) + 1)) if self.category_ids is None else list(self.category_ids)

    @property
    def numbers(self) -> dict[str, int]:
        """COCO's ids, which are numbers: the images' own where all are, else 1, 2, … in the order of their ids."""
        ids = sorted(self.targets)
        if all(one.isdecimal() for one in ids) and len({int(one) for one in ids}) == len(ids):
            return {one: int(one) for one in ids}
        return {one: number for number, one in enumerate(ids, start=1)}

    def in_file(self, boxes: Float[Tensor, "N 4"], image_id: str) -> list[list[float]]:
        height, width = self.targets[image_id].original_size
        return (boxes.double() * torch.tensor([width, height] * 2) / self.side).tolist()


def write_coco_results(file: Path, found: Mapping[str, Detections], measured: Measured) -> None:
    """What ``pycocotools``' loadRes reads: a list of ``{image_id, category_id, bbox (xywh), score}``, best first."""
    numbers, categories = measured.numbers, measured.categories
    results = [
        {"image_id": numbers[image_id], "category_id": categories[label - 1], "bbox": _xywh(box), "score": score}
        for image_id, one in found.items()
        for box, score, label in zip(
            measured.in_file(one.boxes, image_id), one.scores.tolist(), one.labels.tolist(), strict=True
        )
    ]
    results.sort(key=lambda one: -one["score"])
    write_text(file, json.dumps(results))


def write_coco_annotations(file: Path, measured: Measured) -> None:
    """The same images with their objects in COCO's format, for tools that ask for both; VOC's ``difficult`` beside."""
    numbers, categories = measured.numbers, measured.categories
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for image_id, target in measured.targets.items():
        height, width = target.original_size
        name = measured.files[image_id].name
        images.append({"id": numbers[image_id], "file_name": name, "height": height, "width": width})
        for place, box in enumerate(map(_xywh, measured.in_file(target.boxes, image_id))):
            objects.append(
                {
                    "id": len(objects) + 1,  # pycocotools takes 0 for none
                    "image_id": numbers[image_id],
                    "category_id": categories[int(target.labels[place]) - 1],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(target.crowd[place]),
                    "difficult": int(target.difficult[place]),
                }
            )
    named = [{"id": number, "name": name} for number, name in zip(categories, measured.classes, strict=True)]
    write_text(file, json.dumps({"images": images, "annotations": objects, "categories": named}))


def write_voc_results(folder: Path, found: Mapping[str, Detections], measured: Measured) -> None:
    """A file ``det_test_<class>.txt`` for each class: a line ``image score left top right bottom`` for each detection.

    VOC's pixels count from 1 and its boxes end with their last pixel, so that left and top are one more than ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[list[str]] = [[] for _ in measured.classes]
    for image_id, one in found.items():
        boxes = measured.in_file(one.boxes, image_id)
        for (left, top, right, bottom), score, label in zip(
            boxes, one.scores.tolist(), one.labels.tolist(), strict=True
        ):
            numbers = (score, left + 1, top + 1, right, bottom)
            lines[label - 1].append(" ".join([image_id, *(f"{number:.9g}" for number in numbers)]))  # float32's digits
    for name, of_class in zip(measured.classes, lines, strict=True):
        file = folder / f"det_test_{name.replace('/', '_')}.txt"
        write_text(file, "".join(f"{line}\n" for line in of_class))


def _xywh(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
