"""Why AP is below 1: six kinds of error and what each costs, by TIDE (Bolya et al., ECCV 2020, arXiv 2008.08115).

Every wrong detection has one kind, every object that is not found is *missed* unless a wrong detection is near enough
to be called its own. A kind costs what AP would gain if errors of that kind alone were mended; these gains do not add
up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from robustdet.evaluation.average_precision import owners, pairwise_iou
from robustdet.types import Detections, Target

Kind = Literal["classification", "localization", "both", "duplicate", "background", "missed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
RIGHT = -1
IOU, BACKGROUND_IOU = 0.5, 0.1  # TIDE's t_f and t_b
RECALLS = np.arange(101) / 100


@dataclass(frozen=True)
class Errors:
    """Of all detections and objects, difficult and crowd ones and what belongs to them left out.

    A detection is right when it overlaps an object of its class by ``iou`` or more that none of a higher score has
    taken; ``right`` of them are. ``counts`` are errors of each kind, the first that fits:

    - ``localization``: it overlaps an object of its class, by ``background_iou`` or more but less than ``iou``;
    - ``classification``: it overlaps an object of another class by ``iou`` or more;
    - ``duplicate``: it overlaps an object of its class by ``iou`` or more, which another detection has;
    - ``background``: it overlaps no object of any class by more than ``background_iou``;
    - ``both``: what is left: an object of another class, too little overlapped;
    - ``missed``: objects that are not found and to which no detection with one of the first two errors belongs.

    ``costs`` is each kind's ΔAP: what ``ap`` gains when a wrong box or label is put right (the highest score of those
    at an object that is not found; the others go), when what is double, background or both goes, when missed objects
    are not asked for. AP is in [0, 1], of 101 recalls as COCO's at this IoU, the mean over classes with objects; a
    class of which all is missed is worth 1 when that is mended (tidecv leaves such a class out, or counts it as 0).

    ``false_positives_cost`` is what ``ap`` gains when every wrong detection goes, ``false_negatives_cost`` when no
    object is asked for that is not found: where errors are of many kinds, as under attack, one alone mends little.
    """

    iou: float
    background_iou: float
    ap: float
    right: int
    counts: dict[str, int]
    costs: dict[str, float]
    false_positives_cost: float
    false_negatives_cost: float


def count_errors(detections: Mapping[str, Detections], targets: Mapping[str, Target]) -> Errors:
    """Over the images of ``detections``, all of which ``targets`` must hold; boxes of both in the same pixels."""
    sorted_out = [_sort_out(found, targets[image_id]) for image_id, found in sorted(detections.items())]
    seen = _together(sorted_out)
    missed = seen.object_labels[seen.missed]
    positives = np.bincount(seen.object_labels, minlength=int(seen.labels.max(initial=0)) + 1)
    left = positives - np.bincount(missed, minlength=len(positives))
    ap = _mean_average_precision(seen, positives, positives)
    right = seen.kinds == RIGHT
    found = np.bincount(seen.labels[right], minlength=len(positives))
    no_alarms = _mean_average_precision(_of(seen, right), positives, positives)
    counts: dict[str, int] = {"missed": len(missed)}
    mended: dict[str, float] = {"missed": _mean_average_precision(seen, left, positives)}
    for kind, name in enumerate(KINDS[:MISSED]):
        counts[name] = int((seen.kinds == kind).sum())
        mended[name] = _mean_average_precision(_mended(seen, kind), positives, positives)
    return Errors(
        iou=IOU,
        background_iou=BACKGROUND_IOU,
        ap=ap,
        right=int(right.sum()),
        counts={name: counts[name] for name in KINDS},
        costs={name: max(mended[name] - ap, 0.0) for name in KINDS},  # below 0 by rounding alone
        false_positives_cost=max(no_alarms - ap, 0.0),
        false_negatives_cost=max(_mean_average_precision(seen, found, positives) - ap, 0.0),
    )


@dataclass(frozen=True)
class _SortedOut:
    """Detections that count, best score first in an image: ``kinds`` of error or `RIGHT`; ``mended`` the label that
    each would have as the right detection of an object that nothing finds, 0 where it cannot be that.
    """

    scores: Float[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    kinds: Int[np.ndarray, "n"]
    mended: Int[np.ndarray, "n"]
    object_labels: Int[np.ndarray, "m"]
    missed: Bool[np.ndarray, "m"]


def _sort_out(found: Detections, target: Target) -> _SortedOut:
    asked = ~(target.difficult | target.crowd).cpu().numpy()
    of_objects = target.labels.cpu().numpy()[asked]
    order = np.argsort(-found.scores.cpu().double().numpy(), kind="stable")
    scores, labels = found.scores.cpu().double().numpy()[order], found.labels.cpu().numpy()[order]
    boxes = found.boxes.cpu().double().numpy()[order]
    overlaps = pairwise_iou(boxes, target.boxes.cpu().double().numpy()[asked])
    same = labels[:, None] == of_objects[None]
    taken = _taken(np.where(same, overlaps, -1.0))
    is_found = np.isin(np.arange(len(of_objects)), taken)
    kinds, objects = _kinds(overlaps, same, is_found)
    kinds[taken >= 0] = RIGHT
    objects[taken >= 0] = -1
    counts = (taken >= 0) | ~_passed_over(found, target)[order]
    objects[~counts] = -1
    mended = np.zeros_like(labels)
    near, first = np.unique(objects, return_index=True)  # of the errors at an object the highest score, as they stand
    near, first = near[near >= 0], first[near >= 0]
    free = ~is_found[near]
    mended[first[free]] = of_objects[near[free]]
    missed = ~is_found & ~np.isin(np.arange(len(of_objects)), near)
    return _SortedOut(scores[counts], labels[counts], kinds[counts], mended[counts], of_objects, missed)


def _taken(overlaps: Float[np.ndarray, "n m"]) -> Int[np.ndarray, "n"]:
    """The object that each detection finds, -1: none; in their order, each the one left that it overlaps most.

    ``overlaps`` are negative where classes differ.
    """
    taken = np.full(len(overlaps), -1)
    for place in np.flatnonzero(overlaps.max(axis=1, initial=-1.0) >= IOU):
        best = overlaps[place].argmax()
        if overlaps[place, best] >= IOU:
            taken[place] = best
            overlaps[:, best] = -1.0
    return taken


def _kinds(
    overlaps: Float[np.ndarray, "n m"], same: Bool[np.ndarray, "n m"], is_found: Bool[np.ndarray, "m"]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """What kind of error each detection is if it is wrong, and the object that a wrong label or box belongs to (-1)."""
    number, nobody = len(overlaps), np.full(len(overlaps), -1)
    if not overlaps.shape[1]:
        return np.full(number, BACKGROUND), nobody
    own, others = np.where(same, overlaps, 0.0), np.where(same, 0.0, overlaps)
    nearest = own.max(axis=1)
    misplaced = (nearest >= BACKGROUND_IOU) & (nearest <= IOU)
    misnamed = others.max(axis=1) >= IOU
    doubled = (own * is_found).max(axis=1) >= IOU
    nothing = overlaps.max(axis=1) <= BACKGROUND_IOU
    kinds = np.select(
        [misplaced, misnamed, doubled, nothing], [LOCALIZATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH
    )
    return kinds, np.select([misplaced, misnamed], [own.argmax(axis=1), others.argmax(axis=1)], -1)


def _passed_over(found: Detections, target: Target) -> Bool[np.ndarray, "D"]:
    """Whether AP leaves a detection out: it belongs to an object that is not asked for, as VOC says, or lies inside a
    crowd of its class by half or more, as COCO does.
    """
    asked = ~(target.difficult | target.crowd).cpu().numpy()
    owner = owners(found, target, IOU)
    passed = (owner >= 0) & ~np.append(asked, True)[owner]
    crowd = target.crowd.cpu().numpy()
    of_crowd = target.boxes.cpu().double().numpy()[crowd]
    own = found.boxes.cpu().double().numpy()
    overlap = np.minimum(own[:, None, 2:], of_crowd[None, :, 2:]) - np.maximum(own[:, None, :2], of_crowd[None, :, :2])
    area = (own[:, 2:] - own[:, :2]).prod(axis=1)
    inside = overlap.clip(min=0).prod(axis=2) >= IOU * np.maximum(area, np.finfo(float).tiny)[:, None]
    named = found.labels.cpu().numpy()[:, None] == target.labels.cpu().numpy()[crowd][None]
    return passed | (inside & named).any(axis=1)


def _together(images: Sequence[_SortedOut]) -> _SortedOut:
    columns = ("scores", "labels", "kinds", "mended", "object_labels", "missed")
    return _SortedOut(*(np.concatenate([getattr(one, name) for one in images]) for name in columns))


def _of(seen: _SortedOut, keep: Bool[np.ndarray, "n"]) -> _SortedOut:
    """These detections alone; all objects."""
    return replace(
        seen,
        scores=seen.scores[keep],
        labels=seen.labels[keep],
        kinds=seen.kinds[keep],
        mended=seen.mended[keep],
    )


def _mended(seen: _SortedOut, kind: int) -> _SortedOut:
    """Errors of a kind put right where they can be, and gone where they cannot."""
    wrong = seen.kinds == kind
    right = wrong & (seen.mended > 0)
    labels, kinds = np.where(right, seen.mended, seen.labels), np.where(right, RIGHT, seen.kinds)
    return _of(replace(seen, labels=labels, kinds=kinds), ~wrong | right)


def _mean_average_precision(
    seen: _SortedOut, positives: Int[np.ndarray, "classes"], objects: Int[np.ndarray, "classes"]
) -> float:
    """Over the classes that have ``objects``, each with this many ``positives`` to be found; 0 where none has any."""
    order = np.lexsort((-seen.scores, seen.labels))
    labels, hits = seen.labels[order], seen.kinds[order] == RIGHT
    each = []
    for label in np.flatnonzero(objects):
        first, last = np.searchsorted(labels, [label, label + 1])
        each.append(_average_precision(hits[first:last], int(positives[label])) if positives[label] else 1.0)
    return float(np.mean(each)) if each else 0.0


def _average_precision(hits: Bool[np.ndarray, "n"], positives: int) -> float:
    """Mean over the recalls 0, 0.01, …, 1 of the best precision at that recall or beyond."""
    true = hits.cumsum()
    precision = np.maximum.accumulate((true / np.arange(1, len(hits) + 1))[::-1])[::-1]
    place = np.searchsorted(true / positives, RECALLS)
    return float(np.append(precision, 0.0)[place].mean())
