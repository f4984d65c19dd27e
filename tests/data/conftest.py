"""Small data sets, written anew: a drawn one, and photographs' layouts with one coloured rectangle an object."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustdet.data.shapes_set import Shapes

Box = tuple[int, int, int, int]
SETTINGS: dict[str, Any] = {"seed": 3, "size": 48, "train": 24, "val": 6, "test": 8}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    source = Shapes(tmp_path_factory.mktemp("data"), **SETTINGS)
    source.prepare()
    return source


@pytest.fixture
def voc_image() -> Callable[..., None]:
    """Adds one image with objects (name, 1-based inclusive box, difficult) to a VOC folder and to one of its splits."""

    def write(
        folder: Path,
        image_id: str,
        objects: Sequence[tuple[str, Box, int]],
        split: str = "train",
        size: tuple[int, int] = (40, 60),
    ) -> None:
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        height, width = size
        Image.new("RGB", (width, height), (90, 120, 150)).save(folder / "JPEGImages" / f"{image_id}.jpg")
        text = "".join(
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
            f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for name, box, difficult in objects
        )
        size_text = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        xml = f"<annotation><filename>{image_id}.jpg</filename>{size_text}{text}</annotation>"
        (folder / "Annotations" / f"{image_id}.xml").write_text(xml, encoding="utf-8")
        with (folder / "ImageSets" / "Main" / f"{split}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{image_id}\n")

    return write


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """COCO 2017's layout: categories with gaps in their ids, a crowd, a greyscale image, one without objects."""
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 40, "width": 60} for i in (139, 7, 25)]
    objects = [
        {"id": 1, "image_id": 139, "category_id": 90, "bbox": [10.5, 5.25, 20.0, 10.0], "area": 200.0, "iscrowd": 0},
        {"id": 2, "image_id": 139, "category_id": 1, "bbox": [0.0, 0.0, 60.0, 40.0], "area": 2400.0, "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 44, "bbox": [50.0, 30.0, 15.0, 10.5], "area": 150.0, "iscrowd": 0},
        {"id": 4, "image_id": 7, "category_id": 44, "bbox": [3.0, 3.0, 0.0, 8.0], "area": 0.0, "iscrowd": 0},
    ]
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        for image in images:
            grey = np.full((40, 60), image["id"], dtype=np.uint8)
            colour = np.stack([grey, grey + 20, grey + 40], axis=-1)
            Image.fromarray(grey if image["id"] == 7 else colour).save(tmp_path / split / str(image["file_name"]))
        content = {"images": images, "annotations": objects, "categories": categories}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path
