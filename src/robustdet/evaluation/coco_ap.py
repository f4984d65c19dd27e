"""Average precision by COCO's rules, computed by pycocotools itself on data in memory.

Differs from VOC's: 101 recall points, 10 IoU thresholds, at most 100 detections an image, and detections inside a crowd
region count as neither right nor wrong. Images without objects stay in: what is detected there is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from robustdet.evaluation.average_precision import (
    AveragePrecision,
    Curve,
    check_images_and_labels,
    mean_over_classes,
)
from robustdet.types import Detections, Target

MAX_DETECTIONS = 100


@dataclass(frozen=True)
class CocoAveragePrecision(AveragePrecision):
    """``mean``, ``per_class`` and ``curves`` are at IoU 0.5; ``mean_50_95`` averages IoU 0.5, 0.55, …, 0.95."""

    mean_50_95: float


def coco_average_precision(
    detections: Mapping[str, Detections], targets: Mapping[str, Target], num_classes: int
) -> CocoAveragePrecision:
    """COCO's AP50 and AP@[.50:.95] from detections and targets by image id, both in the same pixel frame.

    ``crowd`` is honoured; ``difficult`` is VOC's and not looked at. Raises ValueError as
    :func:`~robustdet.evaluation.average_precision.voc_average_precision` does.
    """
    check_images_and_labels(detections, targets, num_classes)
    precision = _precision(_ground_truth(targets, num_classes), _results(detections, num_classes))
    by_class = [None if (p < 0).any() else p for p in precision.transpose(2, 0, 1)]  # -1 marks a class without objects
    per_class = [None if p is None else float(p[0].mean()) for p in by_class]
    return CocoAveragePrecision(
        mean=mean_over_classes(per_class),
        per_class=per_class,
        curves=[None if p is None else Curve(np.linspace(0, 1, p.shape[1]), p[0]) for p in by_class],
        mean_50_95=mean_over_classes([None if p is None else float(p.mean()) for p in by_class]),
    )


def _precision(truth: dict[str, Any], results: dict[str, Any]) -> Float[np.ndarray, "thresholds recalls C"]:
    with open(os.devnull, "w", encoding="utf-8") as silence, redirect_stdout(silence):
        evaluation = COCOeval(_index(truth), _index(results), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0, 0]


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _ground_truth(targets: Mapping[str, Target], num_classes: int) -> dict[str, Any]:
    """Targets as the dictionary of a COCO annotation file; image k is the k-th id in sorted order."""
    annotations = [
        annotation | {"iscrowd": int(crowd)}
        for number, image_id in enumerate(sorted(targets))
        for annotation, crowd in zip(
            _annotations(number, targets[image_id]), targets[image_id].crowd.tolist(), strict=True
        )
    ]
    return _dataset(len(targets), annotations, num_classes)


def _results(detections: Mapping[str, Detections], num_classes: int) -> dict[str, Any]:
    annotations = [
        annotation | {"iscrowd": 0, "score": score}
        for number, image_id in enumerate(sorted(detections))
        for annotation, score in zip(
            _annotations(number, detections[image_id]), detections[image_id].scores.tolist(), strict=True
        )
    ]
    return _dataset(len(detections), annotations, num_classes)


def _annotations(image: int, objects: Target | Detections) -> list[dict[str, Any]]:
    boxes = objects.boxes.cpu().double().numpy()
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)  # xyxy to COCO's xywh
    return [
        {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]}
        for label, box in zip(objects.labels.tolist(), boxes.tolist(), strict=True)
    ]


def _dataset(num_images: int, annotations: list[dict[str, Any]], num_classes: int) -> dict[str, Any]:
    return {
        "images": [{"id": image} for image in range(num_images)],
        "categories": [{"id": label} for label in range(1, num_classes + 1)],
        # pycocotools takes id 0 for "unmatched", so ids begin at 1
        "annotations": [annotation | {"id": number} for number, annotation in enumerate(annotations, start=1)],
    }
