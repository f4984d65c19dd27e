from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO as Reference

from robustdet.data.annotation import Annotation
from robustdet.data.coco import COCO
from robustdet.data.pixels import read_pixels


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
