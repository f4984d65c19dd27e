"""Average precision by PASCAL VOC's rules (Everingham et al., IJCV 2010; VOC development kit 2007).

A detection belongs to the object of its class and image that it overlaps most. If that overlap reaches the IoU
threshold (``>=``, as in the development kit), the best-scored detection of an object is a true positive and every
other one a false positive; one that belongs to a difficult object counts as neither. Boxes have an exclusive upper
edge, so the kit's "+1" on inclusive pixels is already in them. IoU does not change when an image is stretched, so
boxes of a resized image give the AP of the original one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from robustdet.errors import InputError
from robustdet.types import Detections, Target

Rule = Literal["voc07", "area"]


@dataclass(frozen=True)
class Matched:
    """The detections of one image that count, best score first, and the labels of its objects that do.

    A *hit* is the best-scored detection of an object, every other one a false alarm. Difficult and crowd objects do not
    count, nor does what belongs to them.
    """

    scores: Float[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    hits: Bool[np.ndarray, "n"]
    objects: Int[np.ndarray, "m"]


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class after each counted detection, best score first."""

    recall: Float[np.ndarray, "n"]
    precision: Float[np.ndarray, "n"]


@dataclass(frozen=True)
class AveragePrecision:
    """AP in [0, 1]. Index ``c`` of ``per_class`` and ``curves`` is label ``c + 1``.

    A class without any (countable) object has no AP: it is None, and no part of ``mean``.
    """

    mean: float
    per_class: list[float | None]
    curves: list[Curve | None]


def voc_average_precision(
    detections: Mapping[str, Detections],
    targets: Mapping[str, Target],
    num_classes: int,
    iou: float = 0.5,
    rule: Rule = "voc07",
) -> AveragePrecision:
    """VOC's AP from detections and targets by image id, both in the same pixel frame.

    ``rule``: "voc07" averages the best precision at recalls 0, 0.1, …, 1; "area" integrates the whole curve (VOC
    2010 onwards). ``iou`` is reached with ``>=``; pass ``math.nextafter(0.5, 1)`` for a strict 0.5. Equal scores
    keep the order of sorted image ids. Raises ValueError when the two do not hold the same images, when a label is
    outside 1..num_classes, or when no class has an object.
    """
    check_images_and_labels(detections, targets, num_classes)
    matched = [match_detections(detections[image_id], targets[image_id], iou) for image_id in sorted(targets)]
    objects = np.concatenate([one.objects for one in matched])
    return average_precision(rank(matched), objects, num_classes, rule)


def average_precision(
    ranking: Ranking, objects: Int[np.ndarray, "m"], num_classes: int, rule: Rule = "voc07"
) -> AveragePrecision:
    """The same from detections that are matched and ranked; ``objects`` are the labels of all that count."""
    average = {"voc07": eleven_point_average, "area": area_under_curve}[rule]
    positives = np.bincount(objects, minlength=num_classes + 1).tolist()
    curves = [
        _curve(ranking.hits[ranking.of_class(label)], positives[label]) if positives[label] else None
        for label in range(1, num_classes + 1)
    ]
    per_class = [None if curve is None else average(curve) for curve in curves]
    return AveragePrecision(mean_over_classes(per_class), per_class, curves)


def eleven_point_average(curve: Curve) -> float:
    """Mean over recalls 0, 0.1, …, 1 of the best precision at that recall or beyond (0 where it is never reached)."""
    # The slack keeps a recall of exactly 3/10 from falling short of 0.30000000000000004.
    return float(np.mean([curve.precision[curve.recall >= r - 1e-9].max(initial=0.0) for r in np.linspace(0, 1, 11)]))


def area_under_curve(curve: Curve) -> float:
    """Area under the precision-recall curve whose precision is made non-increasing from the right."""
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float((np.diff(curve.recall, prepend=0.0) * envelope).sum())


def mean_over_classes(per_class: list[float | None]) -> float:
    """Mean over the classes that have an AP; ValueError when none has."""
    known = [ap for ap in per_class if ap is not None]
    if not known:
        raise InputError(f"none of the {len(per_class)} classes has an object to find: there is no average precision")
    return float(np.mean(known))


def check_images_and_labels(
    detections: Mapping[str, Detections], targets: Mapping[str, Target], num_classes: int
) -> None:
    """ValueError naming the first image without detections, without a target, or with a label outside 1..C."""
    for missing, kind in (
        (targets.keys() - detections.keys(), "detections"),
        (detections.keys() - targets.keys(), "target"),
    ):
        if missing:
            raise InputError(f"image {min(missing)!r} has no {kind} ({len(missing)} such images)")
    for image_id, target in targets.items():
        for kind, labels in (("target", target.labels), ("detection", detections[image_id].labels)):
            if len(labels) and not (int(labels.min()) >= 1 and int(labels.max()) <= num_classes):
                raise InputError(
                    f"image {image_id!r}: {kind} labels {sorted(set(labels.tolist()))} are not all in 1..{num_classes}"
                )


def pairwise_iou(a: Float[np.ndarray, "D 4"], b: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "D N"]:
    """IoU of every box of ``a`` with every box of ``b``, both xyxy; 0 where both are empty."""
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    intersection = overlap.clip(min=0).prod(axis=2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a, b))
    return intersection / np.maximum(area_a[:, None] + area_b[None] - intersection, np.finfo(np.float64).tiny)


def owners(found: Detections, target: Target, iou: float = 0.5) -> Int[np.ndarray, "D"]:
    """The object each detection belongs to: that of its class which it overlaps most, by ``iou`` or more; -1: none."""
    if not len(found.labels) or not len(target.labels):
        return np.full(len(found.labels), -1, np.int64)
    overlaps = pairwise_iou(found.boxes.cpu().double().numpy(), target.boxes.cpu().double().numpy())
    overlaps[found.labels.cpu().numpy()[:, None] != target.labels.cpu().numpy()[None]] = -1.0
    return np.where(overlaps.max(axis=1) >= iou, overlaps.argmax(axis=1), -1)


def match_detections(found: Detections, target: Target, iou: float = 0.5) -> Matched:
    """What counts of an image's detections and objects. Equal scores keep their order."""
    scores, labels = found.scores.cpu().double().numpy(), found.labels.cpu().numpy()
    countable = ~(target.difficult | target.crowd).cpu().numpy()
    order = np.argsort(-scores, kind="stable")
    objects = owners(found, target, iou)[order]
    counts = (objects < 0) | np.append(countable, True)[objects]  # -1 reads the last
    order, objects = order[counts], objects[counts]
    hits = np.zeros(len(objects), bool)
    of_object, first = np.unique(objects, return_index=True)
    hits[first[of_object >= 0]] = True
    return Matched(scores[order], labels[order], hits, target.labels.cpu().numpy()[countable])


@dataclass(frozen=True)
class Ranking:
    """The detections of many images, class by class, best score first. ``images`` says whose each is, by number."""

    scores: Float[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    hits: Bool[np.ndarray, "n"]
    images: Int[np.ndarray, "n"]

    def of_class(self, label: int) -> slice:
        first, last = np.searchsorted(self.labels, [label, label + 1]).tolist()
        return slice(first, last)

    def of_images(self, wanted: Bool[np.ndarray, "images"]) -> Ranking:
        """Those of the wanted images alone."""
        keep = wanted[self.images]
        return Ranking(self.scores[keep], self.labels[keep], self.hits[keep], self.images[keep])


def rank(images: Sequence[Matched]) -> Ranking:
    """Those of all these images, numbered by their place. Equal scores keep this order."""
    numbers = (np.full(len(one.scores), number) for number, one in enumerate(images))
    return merged([Ranking(one.scores, one.labels, one.hits, own) for one, own in zip(images, numbers, strict=True)])


def merged(rankings: Sequence[Ranking]) -> Ranking:
    """All of them as one. Equal scores keep this order."""
    columns = zip(*((one.scores, one.labels, one.hits, one.images) for one in rankings), strict=True)
    scores, labels, hits, images = map(np.concatenate, columns)
    order = np.lexsort((-scores, labels))  # a stable sort
    return Ranking(scores[order], labels[order], hits[order], images[order])


def pooled_average_precision(image: Matched) -> float:
    """AP (area rule) of one image whose classes are pooled, so that a wrong detection of any class ranks against all.

    1 where no object counts.
    """
    return area_under_curve(_curve(image.hits, len(image.objects))) if len(image.objects) else 1.0


def _curve(hits: Bool[np.ndarray, "n"], positives: int) -> Curve:
    """Precision and recall of detections, best first."""
    true = hits.cumsum()
    return Curve(recall=true / positives, precision=true / np.arange(1, len(hits) + 1))
