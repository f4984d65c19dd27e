import contextlib
import io
import json

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection._mean_ap import MeanAveragePrecision  # torchmetrics' own computation, without pycocotools

from robustdet.evaluation.coco_ap import coco_average_precision
from tests.evaluation.scenes import detections, scene, target


def official(found, truth, num_classes, folder):
    """AP@[.50:.95] and AP50 of an annotation file and a result file, through the documented interface."""
    number = {name: i for i, name in enumerate(sorted(truth), start=1)}

    def xywh(box):
        x0, y0, x1, y1 = box.tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    annotations = []
    for name, t in truth.items():
        for box, label, crowd in zip(t.boxes, t.labels, t.crowd, strict=True):
            x, y, w, h = xywh(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number[name],
                    "category_id": int(label),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowd),
                }
            )
    results = [
        {"image_id": number[name], "category_id": int(label), "bbox": xywh(box), "score": float(score)}
        for name, d in found.items()
        for box, score, label in zip(d.boxes, d.scores, d.labels, strict=True)
    ]
    (folder / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": i} for i in number.values()],
                "annotations": annotations,
                "categories": [{"id": c} for c in range(1, num_classes + 1)],
            }
        ),
        encoding="utf-8",
    )
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1]


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_run_from_files(seed, tmp_path, capsys):
    found, truth = scene(num_images=40, num_classes=4, seed=seed, crowd=0.2, clutter=150)
    ours = coco_average_precision(found, truth, 4)
    assert capsys.readouterr().out == ""
    assert (ours.mean_50_95, ours.mean) == pytest.approx(official(found, truth, 4, tmp_path), abs=1e-12)
    assert 0.02 < ours.mean_50_95 < ours.mean < 0.9


def test_equals_torchmetrics_where_there_is_no_crowd():
    found, truth = scene(num_images=40, num_classes=4, seed=5)
    metric = MeanAveragePrecision(class_metrics=True)
    metric.update(
        [{"boxes": d.boxes, "scores": d.scores, "labels": d.labels} for d in found.values()],
        [{"boxes": t.boxes, "labels": t.labels} for t in truth.values()],
    )
    theirs = metric.compute()
    ours = coco_average_precision(found, truth, 4)
    assert ours.mean == pytest.approx(theirs["map_50"].item(), abs=1e-5)
    assert ours.mean_50_95 == pytest.approx(theirs["map"].item(), abs=1e-5)


def test_detections_in_a_crowd_do_not_count_but_those_on_an_empty_image_do():
    truth = {
        "crowd": target("crowd", [0, 0, 10, 10, 20, 20, 80, 80], [1, 1], crowd=[False, True]),
        "empty": target("empty", [], []),
    }
    inside = [[25, 25, 35, 35], [40, 40, 50, 50]]
    right = detections([*inside, [0, 0, 10, 10]], [0.9, 0.8, 0.7], [1, 1, 1])
    nothing = detections([], [], [])
    assert coco_average_precision({"crowd": right, "empty": nothing}, truth, 1).mean == pytest.approx(1.0)
    wrong = detections([[0, 0, 10, 10]], [0.95], [1])
    assert coco_average_precision({"crowd": right, "empty": wrong}, truth, 1).mean == pytest.approx(0.5)


def test_a_class_without_objects_has_no_ap_and_no_detections_at_all_are_ap_zero():
    truth = {"a": target("a", [0, 0, 10, 10], [1])}
    result = coco_average_precision({"a": detections([], [], [])}, truth, 2)
    assert result.per_class == [0.0, None]
    assert result.mean == result.mean_50_95 == 0.0
    assert result.curves[1] is None
    assert torch.as_tensor(result.curves[0].precision).sum() == 0


def test_missing_images_are_an_error():
    with pytest.raises(ValueError, match="image 'a' has no detections"):
        coco_average_precision({}, {"a": target("a", [0, 0, 10, 10], [1])}, 1)
