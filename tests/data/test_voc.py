from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import VOCDetection

from robustdet.data.pixels import read_pixels
from robustdet.data.voc import VOC, VOC_CLASSES
from robustdet.errors import InputError

CAT, DOG = ("cat", (1, 1, 60, 40), 0), ("dog", (5, 6, 20, 30), 1)


@pytest.fixture
def devkit(tmp_path: Path, voc_image) -> Path:
    root = tmp_path / "mine"
    voc_image(root / "VOC2007", "000001", [CAT, DOG], "trainval")
    voc_image(root / "VOC2012", "2008_000008", [DOG], "trainval")
    voc_image(root / "VOC2007", "000002", [CAT], "test")
    return root


def test_one_based_inclusive_boxes_become_zero_based_with_an_exclusive_upper_edge(devkit: Path) -> None:
    first = (VOC(devkit).annotations("train") or [])[0]
    assert first.size == (40, 60)
    assert first.boxes.tolist() == [[0, 0, 60, 40], [4, 5, 20, 30]]
    assert first.labels.tolist() == [VOC_CLASSES.index("cat") + 1, VOC_CLASSES.index("dog") + 1]
    assert first.difficult.tolist() == [False, True]
    assert not first.crowd.any()


@pytest.mark.parametrize("nested", [False, True])
def test_a_devkit_trains_on_07_and_12_and_measures_on_07_test(devkit: Path, nested: bool) -> None:
    if nested:
        (devkit / "VOCdevkit").mkdir()
        for year in ("VOC2007", "VOC2012"):
            (devkit / year).rename(devkit / "VOCdevkit" / year)
    source = VOC(devkit)
    source.prepare()
    assert [a.image_id for a in source.annotations("train") or []] == ["000001", "2008_000008"]
    assert [a.image_id for a in source.annotations("test") or []] == ["000002"]
    assert source.annotations("val") is None
    assert source.classes == VOC_CLASSES
    assert len(VOC_CLASSES) == 20
    assert (source.name, source.test_split) == ("mine", "mine: VOC2007 test")


def test_a_devkit_may_be_trained_on_one_of_its_years_and_a_bare_folder_has_none(devkit: Path, tmp_path: Path) -> None:
    source = VOC(devkit, train_years=[2007])
    (devkit / "VOC2012").rename(tmp_path / "elsewhere")
    source.prepare()
    assert [a.image_id for a in source.annotations("train") or []] == ["000001"]
    bare = VOC(devkit / "VOC2007", train=["trainval"], test=["test"], classes=["cat", "dog"], train_years=[2007])
    bare.prepare()
    assert [a.image_id for a in bare.annotations("train") or []] == ["000001"]


def test_agrees_with_torchvisions_reader(devkit: Path) -> None:
    (devkit / "VOCdevkit").mkdir()
    (devkit / "VOC2007").rename(devkit / "VOCdevkit" / "VOC2007")
    (image, tree), *_ = VOCDetection(devkit, year="2007", image_set="trainval")
    ours = (VOC(devkit, train=[[2007, "trainval"]]).annotations("train") or [])[0]
    np.testing.assert_array_equal(read_pixels(ours.image_path, 300, ours.size)[0], np.asarray(image))
    theirs = [[int(o["bndbox"][e]) for e in ("xmin", "ymin", "xmax", "ymax")] for o in tree["annotation"]["object"]]
    np.testing.assert_array_equal(ours.boxes + np.array([1, 1, 0, 0]), theirs)


@pytest.fixture
def bare(tmp_path: Path, voc_image) -> Path:
    root = tmp_path / "cells"
    for split, image_id in [("train", "a"), ("val", "b"), ("test", "c")]:
        voc_image(root, image_id, [("WBC", (2, 2, 9, 9), 0), ("RBC", (11, 2, 30, 9), 0)], split)
    return root


def test_a_bare_folder_brings_its_own_classes_and_splits(bare: Path) -> None:
    source = VOC(bare)
    source.prepare()
    assert source.classes == ["RBC", "WBC"]
    assert [(source.annotations(split) or [])[0].image_id for split in ("train", "val", "test")] == ["a", "b", "c"]
    assert (source.annotations("train") or [])[0].labels.tolist() == [2, 1]
    assert source.test_split == "cells: test"


def test_chosen_splits_and_classes(bare: Path) -> None:
    source = VOC(bare, train=["train", "val"], classes=["WBC", "RBC"])
    assert [a.image_id for a in source.annotations("train") or []] == ["a", "b"]
    assert (source.annotations("train") or [])[0].labels.tolist() == [1, 2]


def test_without_a_val_file_there_is_no_validation(bare: Path) -> None:
    (bare / "ImageSets" / "Main" / "val.txt").unlink()
    assert VOC(bare).annotations("val") is None


def test_png_and_unmentioned_sizes(bare: Path) -> None:
    (bare / "JPEGImages" / "a.jpg").rename(bare / "JPEGImages" / "a.png")
    file = bare / "Annotations" / "a.xml"
    file.write_text(file.read_text(encoding="utf-8").replace("<width>60</width>", "<width>0</width>"), encoding="utf-8")
    assert (VOC(bare).annotations("train") or [])[0].size == (40, 60)


def test_boxes_without_area_are_dropped_and_told(bare: Path, voc_image, caplog: pytest.LogCaptureFixture) -> None:
    objects = [
        ("RBC", (2, 2, 9, 9), 0),
        ("RBC", (30, 20, 30, 20), 0),
        ("WBC", (4, 4, 8, 4), 0),
        ("WBC", (5, 5, 9, 9), 1),
    ]
    voc_image(bare, "d", objects, "odd")
    with caplog.at_level(logging.WARNING):
        (annotation,) = VOC(bare, train=["odd"]).annotations("train") or []
    assert annotation.boxes.tolist() == [[1, 1, 9, 9], [4, 4, 9, 9]]
    assert annotation.difficult.tolist() == [False, True]
    assert annotation.dropped == 2
    for index, written in [
        (1, "'xmin': '30', 'ymin': '20', 'xmax': '30'"),
        (2, "'xmin': '4', 'ymin': '4', 'xmax': '8'"),
    ]:
        found = f"{bare / 'Annotations' / 'd.xml'}: object {index} of image d: its box is {{{written}"
        assert found in caplog.text
    assert caplog.text.count("expected an area within 0..60 x 0..40 pixels: it is dropped") == 2


def test_boxes_beyond_the_image_are_clipped(bare: Path, voc_image) -> None:
    voc_image(bare, "d", [("RBC", (0, -3, 70, 41), 0)], "odd")
    (annotation,) = VOC(bare, train=["odd"]).annotations("train") or []
    assert annotation.boxes.tolist() == [[0, 0, 60, 40]]


def test_an_unknown_class_names_file_object_and_the_nearest(bare: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"a\.xml: object 0 of image a: <name> is the text 'WBC'; expected a class. Did you mean 'WBD'\? Known",
    ):
        VOC(bare, classes=["RBC", "WBD"]).annotations("train")


def damage_xml(root: Path) -> None:
    file = root / "Annotations" / "a.xml"
    file.write_text(file.read_text(encoding="utf-8")[:100], encoding="utf-8")


def damage_box(root: Path) -> None:
    file = root / "Annotations" / "a.xml"
    file.write_text(file.read_text(encoding="utf-8").replace("<xmax>30</xmax>", "<xmax>wide</xmax>"), encoding="utf-8")


def damage_name(root: Path) -> None:
    file = root / "Annotations" / "a.xml"
    file.write_text(file.read_text(encoding="utf-8").replace("<name>RBC</name>", ""), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_xml, r"a\.xml is no well-formed XML \(cut short\?\)"),
        (damage_box, r"a\.xml: object 1 of image a: <bndbox> is .*'xmax': 'wide'.*; expected four numbers"),
        (damage_name, r"a\.xml: object 1 of image a: <name> is missing; expected the name of a class"),
        (
            lambda root: (root / "Annotations" / "a.xml").unlink(),
            r"Annotations/a\.xml is missing: image a has no annotation",
        ),
        (
            lambda root: (root / "JPEGImages" / "a.jpg").unlink(),
            r"a\.xml has no image: no .*JPEGImages/a with one of \.jpg",
        ),
        (
            lambda root: (root / "ImageSets/Main/train.txt").write_text("\n", encoding="utf-8"),
            r"train\.txt lists no image",
        ),
        (
            lambda root: (root / "ImageSets/Main/train.txt").unlink(),
            r"cells has no split 'train' \(.*train\.txt is missing\)\. It has: test, val\.",
        ),
    ],
)
def test_damaged_files_are_named(bare: Path, damage, message: str) -> None:
    damage(bare)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        VOC(bare, classes=["RBC", "WBC"]).annotations("train")


def test_damaged_images_are_named_when_read(bare: Path, voc_image) -> None:
    (annotation,) = VOC(bare).annotations("train") or []
    content = annotation.image_path.read_bytes()
    annotation.image_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image"):
        read_pixels(annotation.image_path, 300, annotation.size)[0]
    (bare / "JPEGImages" / "b.jpg").replace(annotation.image_path)
    assert read_pixels(annotation.image_path, 300, annotation.size)[0].shape == (40, 60, 3)
    voc_image(bare, "a", [], "other", size=(60, 40))
    with pytest.raises(ValueError, match=r"a\.jpg is 40 x 60 pixels, its annotation says 60 x 40"):
        read_pixels(annotation.image_path, 300, annotation.size)[0]


def test_missing_data_says_what_was_looked_for_and_how_to_get_it(tmp_path: Path, devkit: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"No VOC2007 and no VOC2012 in .*nowhere: looked there, in .*data\.download=true"
    ):
        VOC(tmp_path / "nowhere").prepare()
    for file in sorted((devkit / "VOC2012").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (devkit / "VOC2012").rmdir()
    with pytest.raises(FileNotFoundError, match=r"No VOC2012 in .*data\.source\.train='\[\[2007,trainval\]\]'"):
        VOC(devkit).prepare()
    VOC(devkit, train=[[2007, "trainval"]]).prepare()


def test_overlapping_and_misplaced_splits(devkit: Path, bare: Path) -> None:
    with pytest.raises(ValueError, match=r"Image 000001 is twice in VOC2007 trainval \+ VOC2007 trainval"):
        VOC(devkit, train=[[2007, "trainval"], [2007, "trainval"]]).annotations("train")
    with pytest.raises(
        ValueError, match=r"mine has year folders: train wants \[\[2007, trainval\], \.\.\.\], not \['train'\]"
    ):
        VOC(devkit, train=["train"]).annotations("train")
    with pytest.raises(ValueError, match=r"cells is a bare VOC folder: test wants names"):
        VOC(bare, test=[[2007, "test"]]).annotations("test")


def edited(root: Path, image_id: str, old: str, new: str) -> None:
    file = root / "Annotations" / f"{image_id}.xml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_names_with_blanks_in_sub_folders_and_in_either_form_of_unicode(tmp_path: Path, voc_image) -> None:
    root = tmp_path / "mine"
    voc_image(root, "my shelf 1", [CAT], "train")
    voc_image(root, "sen\u0303al", [CAT], "train")  # as macOS writes it; the list has the other form
    (root / "ImageSets/Main/train.txt").write_text("my shelf 1.jpg\nday1/x\nse\u00f1al\n", encoding="utf-8")
    for part, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        (root / part / "day1").mkdir()
        source = root / part / f"my shelf 1{suffix}"
        (root / part / "day1" / f"x{suffix}").write_bytes(source.read_bytes().replace(b"my shelf 1", b"x"))
    found = VOC(root).annotations("train") or []
    assert [annotation.image_id for annotation in found] == ["my shelf 1", "day1/x", "se\u00f1al"]
    assert all(annotation.image_path.is_file() for annotation in found)
    assert VOC(root).classes == ["cat"]


def test_hidden_files_are_passed_over(bare: Path) -> None:
    for name in ("Annotations/._a.xml", "JPEGImages/._a.jpg", "JPEGImages/.a.png", "ImageSets/Main/._train.txt"):
        (bare / name).write_bytes(b"\0\5\x16\7")
    assert VOC(bare).classes == ["RBC", "WBC"]
    assert len(VOC(bare).annotations("train") or []) == 1


@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "big5", "utf-8", "utf-16", "iso-8859-1", "cp1252"])
def test_encodings_that_python_knows(bare: Path, encoding: str) -> None:
    file = bare / "Annotations" / "a.xml"
    name = {"iso-8859-1": "é", "cp1252": "é", "big5": "圖"}.get(encoding, "图")
    text = file.read_text(encoding="utf-8").replace("RBC", name)
    file.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'.encode(encoding))
    assert name in VOC(bare).classes
    assert len((VOC(bare).annotations("train") or [])[0].labels) == 2


@pytest.mark.parametrize("declared", ["klingon", "zlib", "hex"])
def test_an_encoding_that_nobody_knows_is_named(bare: Path, declared: str) -> None:
    file = bare / "Annotations" / "a.xml"
    file.write_bytes(f'<?xml version="1.0" encoding="{declared}"?>'.encode() + file.read_bytes())
    with pytest.raises(InputError, match=r"a\.xml is no well-formed XML .*; expected .* the encoding that it declares"):
        VOC(bare).annotations("train")


@pytest.mark.parametrize(
    "size", ["<width>unknown</width>", "<width>None</width>", "<width></width>", "<width>-3</width>"]
)
def test_a_size_that_says_nothing_is_that_of_the_image(bare: Path, size: str) -> None:
    edited(bare, "a", "<width>60</width>", size)
    assert (VOC(bare).annotations("train") or [])[0].size == (40, 60)


@pytest.mark.parametrize(
    ("text", "difficult"), [("true", True), ("True", True), ("1", True), ("0", False), ("", False)]
)
def test_difficult_in_words(bare: Path, text: str, difficult: bool) -> None:
    edited(bare, "a", "<difficult>0</difficult>", f"<difficult>{text}</difficult>")
    assert (VOC(bare).annotations("train") or [])[0].difficult.tolist() == [difficult] * 2


BOX = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (BOX, BOX * 2, r"object 0 of image a: the number of <bndbox> is 2; expected 1"),
        (BOX, "", r"object 0 of image a: the number of <bndbox> is 0; expected 1"),
        ("<xmin>2</xmin>", "<xmin>12</xmin>", r"its box is \{'xmin': '12', .*'xmax': '9'.*the lower edge before"),
        ("<ymax>9</ymax></bndbox></object><", "<ymax>-9</ymax></bndbox></object><", r"the lower edge before"),
        ("<xmin>2</xmin>", "<xmin>nan</xmin>", r"its box is \{'xmin': 'nan'.*expected numbers"),
        ("<xmax>9</xmax>", "<xmax>inf</xmax>", r"its box is .*'xmax': 'inf'.*expected numbers"),
        ("<difficult>0</difficult>", "<difficult>so</difficult>", r"<difficult> is the text 'so'; expected 0 or 1"),
        (BOX, "<bndbox><xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.5</xmax><ymax>1</ymax></bndbox>", r"are fractions"),
        ("<filename>a.jpg", "<filename>b.jpg", r"says <filename>b\.jpg</filename>, .* a\.jpg, and .*b\.jpg exists"),
        ("<annotation>", "<html>", r"is no well-formed XML"),
    ],
)  # fmt: skip
def test_each_kind_of_fault_is_told_with_file_object_and_value(bare: Path, old: str, new: str, text: str) -> None:
    edited(bare, "a", old, new)
    with pytest.raises(InputError, match=rf"a\.xml.*{text}"):
        VOC(bare, classes=["RBC", "WBC"]).annotations("train")


def test_a_file_name_of_an_image_that_does_not_exist_is_noted(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    edited(bare, "a", "<filename>a.jpg", "<filename>IMG_0001.JPG")
    assert len(VOC(bare).annotations("train") or []) == 1
    assert "a.xml says <filename>IMG_0001.JPG</filename>, and its own name is that of a.jpg" in caplog.text


def test_of_two_images_the_file_name_says_which(bare: Path) -> None:
    (bare / "JPEGImages" / "a.png").write_bytes((bare / "JPEGImages" / "a.jpg").read_bytes())
    assert (VOC(bare).annotations("train") or [])[0].image_path.name == "a.jpg"
    edited(bare, "a", "<filename>a.jpg</filename>", "")
    with pytest.raises(InputError, match=r"a\.jpg is one image of .*a\.xml, and so is .*a\.png; expected one of them"):
        VOC(bare).annotations("train")


def test_a_detectors_classes_measure_it_on_a_folder_with_some_of_them(bare: Path) -> None:
    source = VOC(bare, classes=["WBC", "platelet", "RBC"])
    assert (source.annotations("test") or [])[0].labels.tolist() == [1, 3]
