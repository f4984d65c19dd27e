"""What became of single objects under attack: kept, vanished or mislabelled, and what was fabricated beside them.

AP does not say how a detector fails. These counts do, at one score threshold; compare the true-positive, disappearance,
misclassification and hallucination rates of Armory (Two Six Technologies' evaluation library).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from robustdet.evaluation.average_precision import owners, pairwise_iou
from robustdet.evaluation.store import Outcome
from robustdet.types import Detections, Target

SCORE_THRESHOLD = 0.3  # as in the pictures of detections
IOU = 0.5


@dataclass(frozen=True)
class ObjectCounts:
    """Over all images. Only detections with a score of ``score_threshold`` or more are looked at; two boxes match when
    their IoU is ``iou`` or more.

    - ``objects``: objects to be found, neither difficult nor crowd. Such an object is *found* when a detection of its
      class matches it, and matches no other object of that class better.
    - ``found_clean``, ``found``: how many of them are, on the clean and on the attacked images.
    - ``kept``, ``mislabelled``, ``vanished``: the ``found_clean``, split up by what the attack did to them: still
      found; not found, but matched by a detection of another class; neither.
    - ``fabricated_clean``, ``fabricated``: detections that match no object at all, of whatever class, difficult and
      crowd ones included, on the clean and on the attacked images.
    """

    score_threshold: float
    iou: float
    objects: int
    found_clean: int
    found: int
    kept: int
    mislabelled: int
    vanished: int
    fabricated_clean: int
    fabricated: int


def count_objects(
    clean: Mapping[str, Outcome],
    attacked: Mapping[str, Outcome],
    targets: Mapping[str, Target],
    score_threshold: float = SCORE_THRESHOLD,
    iou: float = IOU,
) -> ObjectCounts:
    """Counts over the images of ``attacked``, all of which ``clean`` and ``targets`` must hold."""
    rows = np.zeros((len(attacked), 8), np.int64)
    for row, (image_id, outcome) in zip(rows, attacked.items(), strict=True):
        target = targets[image_id]
        before, after = (_found(one.detections, target, score_threshold, iou) for one in (clean[image_id], outcome))
        lost = before.found & ~after.found
        row[:] = [
            len(before.found),
            before.found.sum(),
            after.found.sum(),
            (before.found & after.found).sum(),
            (lost & after.misnamed).sum(),
            (lost & ~after.misnamed).sum(),
            before.fabricated,
            after.fabricated,
        ]
    return ObjectCounts(score_threshold, iou, *rows.sum(axis=0).tolist())


@dataclass(frozen=True)
class Confusion:
    """What is taken for what at a score of ``score_threshold`` or more: foreground (objects) and background.

    ``named`` and ``misnamed`` objects are taken for foreground, by a detection of their class or of another's alone;
    ``missed`` ones for background; ``alarms`` are background taken for foreground: detections that match no object at
    all. Background that is taken for nothing is no box, and is not counted. Matches are those of `ObjectCounts`.
    """

    score_threshold: float
    iou: float
    named: int
    misnamed: int
    missed: int
    alarms: int


def count_confusion(
    outcomes: Mapping[str, Outcome],
    targets: Mapping[str, Target],
    score_threshold: float = SCORE_THRESHOLD,
    iou: float = IOU,
) -> Confusion:
    """Over the images of ``outcomes``, all of which ``targets`` must hold."""
    rows = np.zeros((len(outcomes), 4), np.int64)
    for row, (image_id, outcome) in zip(rows, outcomes.items(), strict=True):
        one = _found(outcome.detections, targets[image_id], score_threshold, iou)
        misnamed = ~one.found & one.misnamed
        row[:] = one.found.sum(), misnamed.sum(), (~one.found & ~misnamed).sum(), one.fabricated
    return Confusion(score_threshold, iou, *rows.sum(axis=0).tolist())


@dataclass(frozen=True)
class _Found:
    found: Bool[np.ndarray, "M"]  # of the M objects that count
    misnamed: Bool[np.ndarray, "M"]
    fabricated: int


def _found(detections: Detections, target: Target, score_threshold: float, iou: float) -> _Found:
    keep = detections.scores >= score_threshold
    seen = Detections(detections.boxes[keep], detections.scores[keep], detections.labels[keep]).to("cpu")
    counts = ~(target.difficult | target.crowd).cpu().numpy()
    matches = pairwise_iou(seen.boxes.cpu().double().numpy(), target.boxes.cpu().double().numpy()) >= iou
    other_class = seen.labels.numpy()[:, None] != target.labels.cpu().numpy()[None]
    found = np.isin(np.arange(len(counts)), owners(seen, target, iou))
    return _Found(
        found=found[counts],
        misnamed=(matches & other_class).any(axis=0)[counts],
        fabricated=int((~matches.any(axis=1)).sum()),
    )
