from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO as Reference

from robustdet.data.annotation import Annotation
from robustdet.data.coco import COCO
from robustdet.data.pixels import read_pixels
from robustdet.errors import InputError


def test_categories_become_labels_in_the_order_of_their_ids(coco_root: Path) -> None:
    source = COCO(coco_root)
    source.prepare()
    assert source.classes == ["person", "bottle", "toothbrush"]
    assert source.category_ids == [1, 44, 90]
    assert source.test_split == f"{coco_root.name}: val2017"
    assert source.annotations("val") is None


def test_crowds_empty_images_and_clipped_boxes(coco_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first, second, empty = COCO(coco_root).annotations("test") or []
    assert [a.image_id for a in (first, second, empty)] == ["139", "7", "25"]
    assert first.boxes.tolist() == [[10.5, 5.25, 30.5, 15.25], [0, 0, 60, 40]]
    assert first.labels.tolist() == [3, 1]
    assert first.crowd.tolist() == [False, True]
    assert second.boxes.tolist() == [[50, 30, 60, 40]]
    assert second.dropped == 1
    assert (
        "annotation 4 (object 1 of image 7): its box is {'bbox': [3.0, 3.0, 0.0, 8.0]}; expected an area" in caplog.text
    )
    assert empty.boxes.shape == (0, 4)
    assert [a.is_learnable for a in (first, second, empty)] == [True, True, False]


def test_images_without_annotations_can_be_left_out_and_the_split_says_so(coco_root: Path) -> None:
    source = COCO(coco_root, skip_unannotated=True)
    assert [a.image_id for a in source.annotations("test") or []] == ["139", "7"]
    assert source.test_split == f"{coco_root.name}: val2017, annotated images"
    # a crowd, and a box without area, are annotations too
    edit(coco_root, lambda c: [c["annotations"].pop(2), c["annotations"].pop(0)])
    assert [(a.image_id, a.is_learnable) for a in source_of(coco_root)] == [("139", False), ("7", False)]
    edit(coco_root, lambda c: c["annotations"].clear())
    with pytest.raises(ValueError, match=r"instances_val2017\.json annotates none of its 3 images"):
        source_of(coco_root)


def source_of(root: Path) -> list[Annotation]:
    return COCO(root, skip_unannotated=True).annotations("test") or []


def test_greyscale_images_become_rgb(coco_root: Path) -> None:
    grey = (COCO(coco_root).annotations("test") or [])[1]
    image = read_pixels(grey.image_path, 300, grey.size)[0]
    assert image.shape == (40, 60, 3)
    assert np.ptp(image.astype(int), axis=-1).max() == 0


def test_agrees_with_pycocotools(coco_root: Path) -> None:
    source = COCO(coco_root)
    reference = Reference(str(coco_root / "annotations" / "instances_val2017.json"))
    for annotation in source.annotations("test") or []:
        records = [r for r in reference.loadAnns(reference.getAnnIds(int(annotation.image_id))) if r["area"] > 0]
        assert [source.category_ids[label - 1] for label in annotation.labels] == [r["category_id"] for r in records]
        assert annotation.crowd.tolist() == [bool(r["iscrowd"]) for r in records]
        theirs = [np.clip([x, y, x + w, y + h], 0, [60, 40, 60, 40]) for x, y, w, h in (r["bbox"] for r in records)]
        np.testing.assert_array_equal(annotation.boxes, np.array(theirs).reshape(-1, 4))


def test_any_json_with_its_folder(coco_root: Path) -> None:
    (coco_root / "annotations" / "instances_val2017.json").rename(coco_root / "mine.json")
    source = COCO(coco_root, train=None, test=["mine.json", "val2017"])
    source.prepare()
    assert len(source.annotations("test") or []) == 3
    assert source.annotations("train") is None


def test_missing_data_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"No COCO data in .*: .*instances_train2017\.json, .*train2017.* missing\..*data\.download=true",
    ):
        COCO(tmp_path).prepare()
    with pytest.raises(ValueError, match=r"No archive has .*train2016\. Did you mean 'train2017'\?"):
        COCO(tmp_path, download=True, train=["annotations/a.json", "train2016"], test=None).prepare()


def edit(root: Path, change) -> None:
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "annotations" / "instances_val2017.json").write_text('{"images": [', encoding="utf-8"),
            r"instances_val2017\.json is no well-formed json \(cut short\?\)",
        ),
        (
            lambda root: (root / "annotations" / "instances_val2017.json").write_text("[]", encoding="utf-8"),
            r"instances_val2017\.json has no list of 'images': it is no COCO instances file",
        ),
        (lambda root: edit(root, lambda c: c.pop("categories")), r"has no list of 'categories'"),
        (lambda root: edit(root, lambda c: c["images"].clear()), r"instances_val2017\.json lists no image"),
        (
            lambda root: edit(root, lambda c: c["annotations"][2].update(category_id=12)),
            r"instances_val2017\.json: annotation 3 .*image 7.*: category_id is 12; expected one of 1, 44, 90",
        ),
        (
            lambda root: (root / "val2017" / "000000000025.jpg").unlink(),
            r"instances_val2017\.json has image 25, and it is missing, .*000000000025\.jpg does not exist",
        ),
    ],
)
def test_damaged_files_are_named(coco_root: Path, damage, message: str) -> None:
    damage(coco_root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        COCO(coco_root).annotations("test")


def test_splits_with_different_categories_do_not_mix(coco_root: Path) -> None:
    edit(coco_root, lambda c: c["categories"].append({"id": 91, "name": "hair brush"}))
    with pytest.raises(
        ValueError, match=r"instances_train2017\.json and .*instances_val2017\.json have different categories"
    ):
        COCO(coco_root).annotations("train")


def image(index: int, **fields: Any) -> Any:
    return lambda root: edit(root, lambda c: c["images"][index].update(fields))


def record(index: int, **fields: Any) -> Any:
    return lambda root: edit(root, lambda c: c["annotations"][index].update(fields))


def without(part: str, index: int, field: str) -> Any:
    return lambda root: edit(root, lambda c: c[part][index].pop(field))


def appended(part: str, entry: Any) -> Any:
    return lambda root: edit(root, lambda c: c[part].append(entry))


PERSON = {"id": 1, "name": "person"}


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (record(0, image_id="139"), r"annotation 1: image_id is the text '139'; expected the id .* \(image 139, an"),
        (record(0, image_id=4), r"annotation 1: image_id is 4; expected the id of an image of this file"),
        (without("annotations", 0, "image_id"), r"annotation 1: image_id is missing"),
        (record(0, category_id="90"), r"annotation 1 \(object 0 of image 139\): category_id is the text '90'.* 44, 90"),
        (record(0, category_id=True), r"annotation 1 .*: category_id is True"),
        (without("annotations", 0, "category_id"), r"annotation 1 .*: category_id is missing"),
        (without("annotations", 0, "bbox"), r"annotation 1 .*: bbox is missing; expected \[x, y, width, height\]"),
        (record(0, bbox=None), r"annotation 1 .*: bbox is missing"),
        (record(0, bbox=[]), r"annotation 1 .*: bbox is \[\]; expected"),
        (record(0, bbox=[1, 2, None, 4]), r"annotation 1 .*: bbox is \[1, 2, None, 4\]; expected"),
        (record(0, bbox=["1", 2, 3, 4]), r"annotation 1 .*: bbox is \['1', 2, 3, 4\]; expected"),
        (record(0, bbox={"x": 1}), r"annotation 1 .*: bbox is \{'x': 1\}; expected"),
        (record(0, bbox=[1, 2, 10**400, 4]), r"annotation 1 .*: bbox is \[1, 2, 1000"),
        (record(0, bbox=[1, 2, float("nan"), 4]), r"annotation 1 .*: its box is .*nan.*; expected numbers"),
        (record(0, bbox=[30, 2, -10, 4]), r"annotation 1 .*: its box is .*-10.*; .* the lower edge before"),
        (record(0, bbox=[0.1, 0.2, 0.3, 0.3]), r"annotation 1 .*: bbox is .*fractions of the image"),
        (record(0, iscrowd="0"), r"annotation 1 .*: iscrowd is the text '0'; expected 0 or 1"),
        (record(2, id=1), r"annotation 1 \(object 0 of image 7\): id is 1; expected an id of its own"),
        (record(2, id=True), r"annotation record 2 \(object 0 of image 7\): id is True; expected a whole number"),
        (appended("annotations", 7), r"annotation record 4: it is 7; expected an object with fields"),
        (without("annotations", 2, "id"), None),
        (image(1, id=139), r"image record 1: id is 139; expected an id of its own"),
        (image(1, id="139"), r"image record 1: id is the text '139'; expected an id of its own"),
        (image(1, id=None), r"image record 1: id is missing; expected a whole number or a text"),
        (image(1, height="40"), r"image 7: height is the text '40'; expected a number of pixels"),
        (image(1, width=-60), r"image 7: width is -60; expected a number of pixels"),
        (image(1, height=None, width=0), None),
        (without("images", 1, "height"), None),
        (image(1, file_name=None), r"has image 7 with the file_name None; expected the name of a file"),
        (image(1, file_name=3), r"has image 7 with the file_name 3; expected the name of a file"),
        (image(1, file_name="000000000139.jpg"), r"has image 7 and image 139 in one file, .*00139\.jpg; exp"),
        (image(1, file_name=None, coco_url="http://images.cocodataset.org/train2017/000000000007.jpg"), None),
        (image(1, file_name=".\\000000000007.jpg"), None),
        (image(1, neg_category_ids=[]), None),
        (appended("categories", PERSON | {"name": "man"}), r"category 3: id is 1; expected an id of its own.*'person'"),
        (appended("categories", PERSON | {"id": 2}), r"category 3 with id 2: name is the text 'person'; .* its own"),
        (appended("categories", {"id": 2}), r"category 3 with id 2: name is missing; expected the name of a class"),
        (appended("categories", {"id": "2", "name": "x"}), r"category 3: id is the text '2'; expected a whole number"),
        (appended("categories", "cat"), r"category 3: id is missing"),
        (record(0, segments_info=[]), r"is a panoptic file: its annotations have segments"),
    ],
)  # fmt: skip
def test_each_field_is_answered_by_file_record_and_what_was_expected(coco_root: Path, damage, text: str | None) -> None:
    damage(coco_root)
    source = COCO(coco_root, train=None)
    if text is None:
        assert [len(one.labels) for one in source.annotations("test") or []] == [2, 1, 0]
        return
    with pytest.raises(
        InputError, match=rf"instances_val2017\.json.*{text.removeprefix('instances_val2017' + chr(92) + '.json')}"
    ):
        source.annotations("test")


def test_lvis_is_read_with_a_word_on_what_it_leaves_out(coco_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    image(1, neg_category_ids=[44])(coco_root)
    COCO(coco_root, train=None).annotations("test")
    assert "LVIS, which names some of the objects of an image only" in caplog.text


def test_names_that_are_numbers_are_read_as_text(coco_root: Path) -> None:
    edit(coco_root, lambda c: [entry.update(name=entry["id"]) for entry in c["categories"]])
    assert COCO(coco_root, train=None).classes == ["1", "44", "90"]


def test_file_names_in_another_form_of_unicode(coco_root: Path) -> None:
    (coco_root / "val2017" / "000000000007.jpg").rename(coco_root / "val2017" / "sen\u0303al.jpg")
    image(1, file_name="se\u00f1al.jpg")(coco_root)
    found = COCO(coco_root, train=None).annotations("test") or []
    assert found[1].image_path.is_file()
    (coco_root / "val2017" / "se\u00f1al.jpg").write_bytes(b"")
    assert COCO(coco_root, train=None).annotations("test") is not None  # exactly that name


def test_categories_are_matched_by_name(coco_root: Path) -> None:
    source = COCO(coco_root)
    labels = [one.labels.tolist() for one in source.annotations("test") or []]
    numbers = {90: 3, 1: 44, 44: 2}

    def renumber(content: Any) -> None:
        for entry in content["categories"]:
            entry["id"] = numbers[entry["id"]]
        for entry in content["annotations"]:
            entry["category_id"] = numbers[entry["category_id"]]

    edit(coco_root, renumber)
    other = COCO(coco_root, classes=source.classes)
    assert other.category_ids == [44, 2, 3]
    assert [one.labels.tolist() for one in other.annotations("test") or []] == labels
    assert [one.labels.tolist() for one in other.annotations("train") or []] == labels
    edit(coco_root, lambda c: c["categories"].append({"id": 91, "name": "hair brush"}))
    with pytest.raises(InputError, match=r"different categories: .*val2017\.json alone has hair brush\. data\.so"):
        COCO(coco_root, classes=source.classes).annotations("test")
