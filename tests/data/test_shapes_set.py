from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from robustdet.data import shapes_set
from robustdet.data.annotation import Split
from robustdet.data.coco import COCO
from robustdet.data.pixels import read_pixels
from robustdet.data.shapes import draw_scene
from robustdet.data.shapes_set import MANIFEST, Shapes
from robustdet.errors import InputError

FEW = {"size": 48, "train": 3, "val": 1, "test": 2}


@pytest.mark.parametrize(("split", "number"), [("train", 0), ("val", 1), ("test", 2)])
def test_both_layouts_hold_what_was_drawn(shapes: Shapes, split: Split, number: int) -> None:
    pair = (f"annotations/instances_{split}.json", "JPEGImages")
    coco_source = COCO(shapes.folder, train=None, test=pair)
    as_voc, as_coco = shapes.annotations(split), coco_source.annotations("test")
    assert as_voc is not None
    assert as_coco is not None
    assert len(as_voc) == len(as_coco) == getattr(shapes.settings, split)
    assert coco_source.classes == shapes.classes
    for index, (voc, coco) in enumerate(zip(as_voc, as_coco, strict=True)):
        scene = draw_scene(np.random.default_rng([3, number, index]), 48)
        np.testing.assert_array_equal(read_pixels(voc.image_path, 300, voc.size)[0], scene.image)
        for annotation in (voc, coco):
            assert annotation.image_path == shapes.folder / "JPEGImages" / f"{split}_{index:05d}.png"
            assert annotation.size == (48, 48)
            np.testing.assert_array_equal(annotation.boxes, scene.boxes)
            np.testing.assert_array_equal(annotation.labels, scene.labels)
            np.testing.assert_array_equal(annotation.difficult, scene.difficult)
            assert not annotation.crowd.any()


def test_a_finished_set_is_not_drawn_again(shapes: Shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(shapes_set, "draw_set", lambda *arguments: calls.append(arguments))
    again = Shapes(shapes.folder.parent, seed=3, size=48, train=24, val=6, test=8)
    again.prepare()
    assert again.folder == shapes.folder
    assert calls == []


def test_other_settings_get_another_folder(tmp_path: Path) -> None:
    for seed in (0, 1):
        Shapes(tmp_path, seed=seed, **FEW).prepare()
    manifests = sorted(tmp_path.glob(f"*/{MANIFEST}"))
    assert [json.loads(file.read_text(encoding="utf-8"))["seed"] for file in manifests] == [0, 1]


def test_an_interrupted_drawing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def interrupted(rng, size):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(size)
        return draw_scene(rng, size)

    source = Shapes(tmp_path, **FEW)
    with monkeypatch.context() as patch:
        patch.setattr(shapes_set, "draw_scene", interrupted)
        with pytest.raises(KeyboardInterrupt):
            source.prepare()
    assert list(tmp_path.iterdir()) == []
    source.prepare()
    assert len(source.annotations("train") or []) == 3


def test_what_a_killed_drawing_left_is_taken_away_when_nobody_can_be_at_work_on_it(tmp_path: Path) -> None:
    source = Shapes(tmp_path, size=64, train=1, val=1, test=1)
    old, new = (tmp_path / f".{source.folder.name}-{name}" for name in ("old", "new"))
    for left in (old, new):
        (left / "JPEGImages").mkdir(parents=True)
    os.utime(old, (0, 0))
    source.prepare()
    assert (source.folder / MANIFEST).is_file()
    assert not old.exists()
    assert new.exists()


def test_a_folder_without_its_manifest_is_drawn_anew(tmp_path: Path) -> None:
    source = Shapes(tmp_path, **FEW)
    source.prepare()
    (source.folder / MANIFEST).unlink()
    (source.folder / "JPEGImages" / "train_00001.png").unlink()
    source.prepare()
    assert len(source.annotations("train") or []) == 3


def test_of_two_processes_the_second_keeps_what_the_first_drew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Shapes(tmp_path, **FEW), Shapes(tmp_path, **FEW)

    def slower(rng, size):
        if not (first.folder / MANIFEST).is_file():
            with monkeypatch.context() as patch:
                patch.setattr(shapes_set, "draw_scene", draw_scene)
                first.prepare()
        return draw_scene(rng, size)

    monkeypatch.setattr(shapes_set, "draw_scene", slower)
    second.prepare()
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_the_test_split_says_which_drawing_it_is(shapes: Shapes) -> None:
    assert shapes.test_split.startswith("shapes: test (48px-seed3-")
    assert (shapes.name, shapes.metric) == ("shapes", "area")


@pytest.mark.parametrize("below", [(), ("deeper",)])
def test_nothing_is_drawn_into_a_file(tmp_path: Path, below: tuple[str, ...]) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    root = (tmp_path / "notes.txt").joinpath(*below)
    with pytest.raises(InputError, match=r"notes\.txt.* is no folder, or below a file: shapes cannot be drawn there"):
        Shapes(root, **FEW).prepare()
