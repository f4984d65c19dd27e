"""Detections as COCO's and VOC's result files, judged by the tools that read them."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

from robustdet.evaluation.coco_ap import coco_average_precision
from robustdet.interop.result_files import Measured, write_coco_annotations, write_coco_results, write_voc_results
from tests.evaluation import scenes

SIDE = 100
NAMES = ["cat", "a/b", "dog"]


@pytest.fixture
def scene() -> tuple[dict, Measured]:
    found, targets = scenes.scene(12, len(NAMES), seed=3, size=SIDE, crowd=0.1)
    targets = {key: replace(one, original_size=(50 + int(key), 300)) for key, one in targets.items()}
    files = {key: Path("images", f"{key}.jpg") for key in targets}
    return found, Measured(targets, files, SIDE, NAMES, category_ids=[3, 17, 90])


def test_pycocotools_reads_them_and_finds_our_ap(scene: tuple[dict, Measured], tmp_path: Path):
    found, measured = scene
    write_coco_annotations(tmp_path / "annotations.json", measured)
    write_coco_results(tmp_path / "clean.json", found, measured)
    with open(os.devnull, "w", encoding="utf-8") as silence, redirect_stdout(silence):
        truth = COCO(str(tmp_path / "annotations.json"))
        judged = COCOeval(truth, truth.loadRes(str(tmp_path / "clean.json")), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    ours = coco_average_precision(found, measured.targets, len(NAMES))
    assert 0.1 < ours.mean_50_95 < 0.9
    assert judged.stats[0] == pytest.approx(ours.mean_50_95, abs=1e-9)
    assert judged.stats[1] == pytest.approx(ours.mean, abs=1e-9)
    assert [one["name"] for one in truth.loadCats(truth.getCatIds())] == NAMES
    image = truth.loadImgs([7])[0]
    assert (image["file_name"], image["height"], image["width"]) == ("000007.jpg", 57, 300)


def test_images_without_numbers_are_counted(scene: tuple[dict, Measured]):
    _, measured = scene
    assert measured.numbers["000007"] == 7
    named = replace(measured, targets={"2008_000002": measured.targets["000001"], "12": measured.targets["000002"]})
    assert named.numbers == {"12": 1, "2008_000002": 2}
    alike = replace(measured, targets={"007": measured.targets["000001"], "7": measured.targets["000002"]})
    assert sorted(alike.numbers.values()) == [1, 2]


def test_vocs_files_have_a_line_for_each_detection_in_its_pixels(tmp_path: Path):
    targets = {"000012": scenes.target("000012", [], [], original_size=(200, 50))}
    found = {"000012": scenes.detections([[10, 20, 30, 40], [0, 0, 100, 100]], [0.75, 0.1], [3, 3])}
    write_voc_results(tmp_path / "clean", found, Measured(targets, {}, SIDE, NAMES))
    files = {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "clean").iterdir()}
    assert files == {
        "det_test_cat.txt": "",
        "det_test_a_b.txt": "",
        "det_test_dog.txt": "000012 0.75 6 41 15 80\n000012 0.100000001 1 1 50 200\n",
    }


def test_detections_are_torchmetrics_input_as_they_are():
    """docs/other_tools.md says so. Its crowd regions are not quite pycocotools': there are none here."""
    found, targets = scenes.scene(12, len(NAMES), seed=3, size=SIDE)
    metric = MeanAveragePrecision(backend="pycocotools")
    truth = [{"boxes": one.boxes, "labels": one.labels, "iscrowd": one.crowd} for one in targets.values()]
    with open(os.devnull, "w", encoding="utf-8") as silence, redirect_stdout(silence):
        metric.update([vars(one) for one in found.values()], truth)
        theirs = metric.compute()
    ours = coco_average_precision(found, targets, len(NAMES))
    assert float(theirs["map_50"]) == pytest.approx(ours.mean, abs=1e-5)
    assert float(theirs["map"]) == pytest.approx(ours.mean_50_95, abs=1e-5)
