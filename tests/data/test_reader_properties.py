"""Both readers on drawn data sets: what they accept is right by a second reader, and whatever is refused is told."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO as Reference

from robustdet.data.annotation import Annotation
from robustdet.data.coco import COCO
from robustdet.data.problems import Problems
from robustdet.data.voc import VOC
from robustdet.errors import RobustdetError

WIDTH, HEIGHT = 60, 40
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

numbers = st.one_of(
    st.integers(-5, 70),
    st.floats(-5, 70, allow_subnormal=False),
    st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=False),
    st.sampled_from([1e-6, 60.0, float(np.nextafter(60, 0)), float(np.nextafter(60, 100)), 40.0, 1e300]),
)
anything = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=4), st.just([]), st.just({}), st.integers(-(10**30), 10**30)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main", "images"):
        (tmp_path / part).mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "JPEGImages" / "a.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n", encoding="utf-8")
    return tmp_path


def judged(annotations: Sequence[Annotation]) -> None:
    """Every box is one that any later step can take."""
    for one in annotations:
        assert one.boxes.dtype == np.float32
        assert np.isfinite(one.boxes).all()
        assert (one.boxes >= 0).all()
        assert (one.boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
        assert (one.boxes[:, 2:] - one.boxes[:, :2] >= 0.009).all()
        for size in (17, 96, 300):
            scaled = one.boxes * np.array([size / WIDTH, size / HEIGHT] * 2, np.float32)
            assert (scaled[:, 2:] > scaled[:, :2]).all()


def voc_of(root: Path, objects: Sequence[dict[str, Any]]) -> VOC:
    tree = ElementTree.Element("annotation")
    for entry in objects:
        element = ElementTree.SubElement(tree, "object")
        ElementTree.SubElement(element, "name").text = "cat"
        box = ElementTree.SubElement(element, "bndbox")
        for edge, value in entry.items():
            ElementTree.SubElement(box, edge).text = str(value)
    ElementTree.ElementTree(tree).write(root / "Annotations" / "a.xml")
    return VOC(root, classes=["cat"])


def accounted_for(source: VOC | COCO) -> int:
    """How many objects of the one image are kept, and sound, or told of."""
    problems = Problems("skip")
    (one,) = source.annotations("train", problems) or []
    judged([one])
    assert len({problem.record for problem in problems}) >= one.dropped
    return len(one.labels) + one.dropped


def coco_of(root: Path, records: Sequence[Any], **image: Any) -> COCO:
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH, **image}]
    content = {"images": images, "annotations": records, "categories": [{"id": 1, "name": "cat"}]}
    (root / "mine.json").write_text(json.dumps(content), encoding="utf-8")
    return COCO(root, train=["mine.json", "images"], test=None)


@quick
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), numbers)), max_size=4))
def test_no_box_of_voc_passes_that_a_later_step_cannot_take(folder: Path, objects: list[dict[str, Any]]) -> None:
    assert accounted_for(voc_of(folder, objects)) == len(objects)


@quick
@given(st.lists(st.lists(numbers, min_size=4, max_size=4), max_size=4))
def test_no_box_of_coco_passes_that_a_later_step_cannot_take(folder: Path, boxes: list[list[float]]) -> None:
    records = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    assert accounted_for(coco_of(folder, records)) == len(boxes)


@quick
@given(
    st.lists(
        st.one_of(
            anything,
            st.dictionaries(
                st.sampled_from(["id", "image_id", "category_id", "bbox", "iscrowd", "difficult"]), anything
            ),
        ),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["id", "file_name", "height", "width", "coco_url"]), anything),
)
def test_whatever_stands_in_coco_fields_is_read_or_told(
    folder: Path, records: list[Any], image: dict[str, Any]
) -> None:
    try:
        judged(coco_of(folder, records, **image).annotations("train", Problems("skip")) or [])
    except RobustdetError as error:
        assert "mine.json" in str(error)  # noqa: PT017  most are read


edges = st.tuples(st.integers(1, WIDTH - 2), st.integers(1, HEIGHT - 2), st.integers(2, 70), st.integers(2, 50))
sound = st.lists(edges.map(lambda e: (e[0], e[1], max(e[2], e[0] + 1), max(e[3], e[1] + 1))), max_size=5)


@quick
@given(sound)
def test_voc_agrees_with_a_naive_parser(folder: Path, boxes: list[tuple[int, int, int, int]]) -> None:
    names = ("xmin", "ymin", "xmax", "ymax")
    (one,) = voc_of(folder, [dict(zip(names, box, strict=True)) for box in boxes]).annotations("train") or []
    text = (folder / "Annotations" / "a.xml").read_text(encoding="utf-8")
    expected = []
    for piece in text.split("<bndbox>")[1:]:  # by hand: no XML parser, no numpy
        low_x, low_y, high_x, high_y = (int(piece.split(f"<{name}>")[1].split("<")[0]) for name in names)
        expected.append([low_x - 1, low_y - 1, min(high_x, WIDTH), min(high_y, HEIGHT)])
    assert one.boxes.tolist() == expected


@quick
@given(sound, st.lists(st.booleans(), min_size=5, max_size=5))
def test_coco_agrees_with_pycocotools(folder: Path, boxes: list[tuple[int, int, int, int]], crowds: list[bool]) -> None:
    records = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [x, y, right - x, bottom - y], "iscrowd": int(crowd)}
        for i, ((x, y, right, bottom), crowd) in enumerate(zip(boxes, crowds, strict=False), start=1)
    ]
    (one,) = coco_of(folder, records).annotations("train") or []
    reference = Reference(str(folder / "mine.json"))
    theirs = reference.loadAnns(reference.getAnnIds(1))
    corners = [[x, y, min(x + w, WIDTH), min(y + h, HEIGHT)] for x, y, w, h in (each["bbox"] for each in theirs)]
    assert one.boxes.tolist() == corners
    assert one.crowd.tolist() == [bool(each["iscrowd"]) for each in theirs]
