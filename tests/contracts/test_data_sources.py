"""The readers that are shipped keep the promises that a reader of one's own is held to; on one drawn set."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustdet.data.coco import COCO
from robustdet.data.shapes_set import Shapes
from robustdet.data.voc import VOC
from tests.data.promises import check_source

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    source = Shapes(tmp_path_factory.mktemp("data"), train=8, val=3, test=4)
    source.prepare()
    return source


def test_of_drawn_shapes(drawn: Shapes):
    check_source(drawn)


def test_of_voc(drawn: Shapes):
    check_source(VOC(drawn.folder))


def test_of_coco(drawn: Shapes):
    files = {split: (f"annotations/instances_{split}.json", "JPEGImages") for split in SPLITS}
    source = COCO(drawn.folder, **files)
    ids: list[Path] = [one.image_path for split in SPLITS for one in source.annotations(split) or []]
    assert len(set(ids)) == 15
