"""What a data set measures a detector by: one call from detections to the numbers of a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.evaluation.average_precision import (
    AveragePrecision,
    Rule,
    area_under_curve,
    mean_over_classes,
    voc_average_precision,
)
from robustdet.evaluation.coco_ap import coco_average_precision
from robustdet.types import Detections, Target


@dataclass(frozen=True)
class Scores:
    """The headline (``rule`` names it) and what stands beside it; None where the data set has no such number."""

    rule: str
    headline: AveragePrecision
    area_map: float | None = None  # VOC 2010's rule
    map_50_95: float | None = None  # COCO's


@runtime_checkable
class Metric(Protocol):
    def __call__(self, detections: Mapping[str, Detections], targets: Mapping[str, Target]) -> Scores: ...


class VocMetric:
    """AP at IoU 0.5: the headline by ``rule`` (VOC07's 11 points), and the area under the curve beside it."""

    def __init__(self, num_classes: int, iou: float = 0.5, rule: Rule = "voc07") -> None:
        self.num_classes = num_classes
        self.iou = iou
        self.rule: Rule = rule

    def __call__(self, detections: Mapping[str, Detections], targets: Mapping[str, Target]) -> Scores:
        headline = voc_average_precision(detections, targets, self.num_classes, self.iou, self.rule)
        areas = [None if curve is None else area_under_curve(curve) for curve in headline.curves]
        return Scores(self.rule, headline, area_map=mean_over_classes(areas))


class CocoMetric:
    """COCO's AP50, and AP@[.50:.95] beside it."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, detections: Mapping[str, Detections], targets: Mapping[str, Target]) -> Scores:
        result = coco_average_precision(detections, targets, self.num_classes)
        return Scores("coco50", result, map_50_95=result.mean_50_95)


class AuthorsVocMetric:
    """VOC07 AP as the authors' evaluator computes it: detections go through a text file on their way.

    There, boxes in pixels of the original image are ``pixel_offset`` too far right and down and have one decimal,
    scores have ``score_decimals``, objects have inclusive upper edges, and an IoU must exceed the threshold.
    ``input_size`` is the height and width, in pixels, of the frame that boxes come in.
    """

    def __init__(
        self, num_classes: int, input_size: int, iou: float = 0.5, pixel_offset: float = 1.0, score_decimals: int = 3
    ) -> None:
        self.voc = VocMetric(num_classes, math.nextafter(iou, 1))
        self.input_size = input_size
        self.pixel_offset = pixel_offset
        self.score_decimals = score_decimals

    def __call__(self, detections: Mapping[str, Detections], targets: Mapping[str, Target]) -> Scores:
        upper_edge = torch.tensor([0.0, 0.0, 1.0, 1.0])
        written = {
            image_id: Detections(
                boxes=(self._original(found.boxes, targets[image_id]) + self.pixel_offset).round(decimals=1),
                scores=found.scores.cpu().double().round(decimals=self.score_decimals),
                labels=found.labels.cpu(),
            )
            for image_id, found in detections.items()
        }
        objects = {
            image_id: replace(target, boxes=self._original(target.boxes, target) - upper_edge)
            for image_id, target in targets.items()
        }
        return replace(self.voc(written, objects), rule="voc07_authors")

    def _original(self, boxes: Float[Tensor, "D 4"], target: Target) -> Float[Tensor, "D 4"]:
        height, width = target.original_size
        return boxes.cpu().double() * torch.tensor([width, height, width, height]) / self.input_size
