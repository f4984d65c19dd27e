"""What a patch does: to objects that it hides, that it touches, and that are further and further away.

A patch is the smallest box that holds all that changed of an image. An object of which it covers more than `HIDDEN` is
*hidden*: that nobody finds it is no success of an attacker, and no failure of a detector. Such objects are treated as
difficult ones are: they are not asked for, and what is detected there counts as neither right nor wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from robustdet.evaluation.average_precision import owners
from robustdet.evaluation.metric import Metric
from robustdet.evaluation.perturbation import EDGES
from robustdet.evaluation.store import Outcome
from robustdet.types import Detections, Target

HIDDEN = 0.5  # of an object's box
BANDS = ((0.0, 0.0), (0.0, 1.0), (1.0, 2.0), (2.0, None))  # in sides of the patch: touched, then further away


@dataclass(frozen=True)
class Band:
    """Objects whose boxes are more than ``nearest`` and at most ``farthest`` sides of the patch from it (0 and 0: that
    touch it; None: without end): how many there are, and their AP, clean and attacked, None where there is none.

    AP is the data set's own with all other objects treated as difficult; a detection that belongs to no object counts
    where its own box is in the band.
    """

    nearest: float
    farthest: float | None
    objects: int
    clean_map: float | None
    map: float | None


@dataclass(frozen=True)
class PatchEffect:
    """``size`` is the share of an image's area that the patch may have. Objects of which it covers more than
    ``hidden_share`` are ``hidden``, ``visible`` is the number of all others; ``clean_map`` and ``map`` are their AP,
    with the hidden ones treated as difficult, on the clean and on the attacked images. None where there is no AP.
    """

    size: float
    hidden_share: float
    hidden: int
    visible: int
    clean_map: float | None
    map: float | None
    bands: list[Band]


def patch_effect(
    clean: Mapping[str, Outcome],
    attacked: Mapping[str, Outcome],
    targets: Mapping[str, Target],
    metric: Metric,
    size: float,
) -> PatchEffect:
    """Over the images of ``attacked``, all of which ``clean`` and ``targets`` must hold."""
    seen = {image_id: targets[image_id] for image_id in attacked}
    visible = without_hidden(attacked, seen)
    boxes = {image_id: patch_box(outcome) for image_id, outcome in attacked.items()}
    found = [{image_id: of[image_id].detections.to("cpu") for image_id in attacked} for of in (clean, attacked)]
    bands = []
    for nearest, farthest in BANDS:
        of_band = {
            image_id: _not_asked(target, ~_within(target, boxes[image_id], nearest, farthest))
            for image_id, target in visible.items()
        }
        near = [
            {key: _counted(one, visible[key], boxes[key], nearest, farthest) for key, one in of.items()} for of in found
        ]
        bands.append(Band(nearest, farthest, _count(of_band), *(_map(of, of_band, metric) for of in near)))
    return PatchEffect(
        size=size,
        hidden_share=HIDDEN,
        hidden=_count(seen) - _count(visible),
        visible=_count(visible),
        clean_map=_map(found[0], visible, metric),
        map=_map(found[1], visible, metric),
        bands=bands,
    )


def without_hidden(attacked: Mapping[str, Outcome], targets: Mapping[str, Target]) -> dict[str, Target]:
    """The targets of the images of ``attacked`` with the objects that patches hide among those not asked for."""
    return {
        image_id: _not_asked(target, covered(target.boxes.cpu().double().numpy(), patch_box(outcome)) > HIDDEN)
        for image_id, outcome in attacked.items()
        for target in [targets[image_id]]
    }


def patch_box(outcome: Outcome) -> Float[np.ndarray, "4"]:
    """xyxy in pixels; without an area where nothing changed."""
    return np.array([outcome.measures[f"changed_{edge}"] for edge in EDGES])


def covered(boxes: Float[np.ndarray, "N 4"], patch: Float[np.ndarray, "4"]) -> Float[np.ndarray, "N"]:
    """The share of each box that the patch covers."""
    overlap = np.minimum(boxes[:, 2:], patch[2:]) - np.maximum(boxes[:, :2], patch[:2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return overlap.clip(min=0).prod(axis=1) / np.maximum(area, np.finfo(float).tiny)


def distance(boxes: Float[np.ndarray, "N 4"], patch: Float[np.ndarray, "4"]) -> Float[np.ndarray, "N"]:
    """How far each box is from the patch, in the patch's (longer) sides: 0 where they touch, ∞ where there is none."""
    side = (patch[2:] - patch[:2]).max()
    if side <= 0:
        return np.full(len(boxes), math.inf)
    gap = np.maximum(boxes[:, :2] - patch[2:], patch[:2] - boxes[:, 2:]).clip(min=0)
    return np.hypot(*gap.T) / side


def _within(
    one: Target | Detections, patch: Float[np.ndarray, "4"], nearest: float, farthest: float | None
) -> Bool[np.ndarray, "N"]:
    away = distance(one.boxes.cpu().double().numpy(), patch)
    beyond = away > nearest if farthest != 0 else away >= 0
    return beyond & (away <= (math.inf if farthest is None else farthest))


def _not_asked(target: Target, which: Bool[np.ndarray, "N"]) -> Target:
    """Marked as difficult and as a crowd: each data set's metric looks at one of the two."""
    marked = torch.from_numpy(which)
    return replace(target, difficult=target.difficult | marked, crowd=target.crowd | marked)


def _counted(
    found: Detections, target: Target, patch: Float[np.ndarray, "4"], nearest: float, farthest: float | None
) -> Detections:
    """Less what belongs to no object and is not in the band."""
    keep = torch.from_numpy((owners(found, target) >= 0) | _within(found, patch, nearest, farthest))
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])


def _count(targets: Mapping[str, Target]) -> int:
    return sum(len(target.learnable.labels) for target in targets.values())


def _map(found: Mapping[str, Detections], targets: Mapping[str, Target], metric: Metric) -> float | None:
    return metric(found, targets).headline.mean if _count(targets) else None
