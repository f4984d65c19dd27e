"""AP itself, smoothed and image by image: detections, matched as AP matches them and weighed by how high they rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from robustdet.attacks.outranking import IOU
from robustdet.attacks.victim import BorrowedDetector, require_detector
from robustdet.errors import InputError, KindError
from robustdet.types import BorrowedVictim, Detections, Images, Offer, RawPredictions, Target

SATURATED = 1e-6  # scores as near to 0 or 1 as this count as that near: log-odds stay finite


class APSurrogate:
    """What an image adds to the AP of its data set, to be lowered; for APGD or PGD.

    -Σ_hits σ((ℓ - θ)/s) + λ Σ_false alarms σ((ℓ - θ)/s), with ℓ = log p/(1 - p), the log-odds of a detection's score.
    Detections are the detector's own (after suppression); they are matched as AP does it: the best one that overlaps an
    object by 0.5 or more is its hit, the others are false alarms, and what finds a difficult object or a crowd is
    neither.

    To the first order, a hit is worth the precision at its place and what it lends to the hits below it
    (`robustdet.evaluation.worst_case.FirstOrder`). Where images are attacked that grows with the log-odds much as a
    logistic curve does; ``threshold`` θ and ``width`` s are its place and width, ``false_alarms`` λ what a false alarm
    costs, of what a hit is worth. A hit far above θ has hardly any gradient: go on from an attack by
    :class:`~robustdet.attacks.outranking.Outranking`, which has one everywhere.
    """

    needs: Offer = "detections"
    passes_over_difficult = True

    def __init__(
        self, threshold: float | int = 2.0, width: float | int = 1.5, false_alarms: float | int = 0.01
    ) -> None:
        if not width > 0:
            raise InputError(f"expected a positive width, got {width!r}")
        self.threshold = threshold
        self.width = width
        self.false_alarms = false_alarms

    def __call__(self, model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
        detector = require_detector(model, "APSurrogate")
        raw = detector.predict(images)
        of_images = detector.detections_of(raw)
        # an image without detections has a gradient, too: 0
        said = raw.cls_logits[:, 0, 0] if isinstance(raw, RawPredictions) else images[:, 0, 0, 0]
        if said.requires_grad and any(len(one.scores) and not one.scores.requires_grad for one in of_images):
            raise KindError(
                f"{type(self).__name__} needs scores that carry gradients: {type(detector.detector).__name__}.detect "
                "detaches them, by torch.no_grad() perhaps"
            )
        added = [self._added(found, target) for found, target in zip(of_images, detector.targets, strict=True)]
        return 0 * said + self._beside(detector, raw, of_images) - torch.stack(added)

    def _beside(
        self, detector: BorrowedDetector, raw: Any, of_images: Sequence[Detections]
    ) -> Float[Tensor, "B"] | float:
        """What else an attack by this is to raise: nothing."""
        return 0.0

    def _added(self, found: Detections, target: Target) -> Float[Tensor, ""]:
        """What one image adds to AP."""
        hits, false_alarms = judged(found, target)
        worth = self._worth(found.scores.nan_to_num().logit(SATURATED), found.labels, hits)
        return (worth * (hits | false_alarms)).sum()

    def _worth(
        self, log_odds: Float[Tensor, "D"], labels: Int[Tensor, "D"], hits: Bool[Tensor, "D"]
    ) -> Float[Tensor, "D"]:
        """Of hits and, where ``hits`` says no, of false alarms."""
        return torch.sigmoid((log_odds - self.threshold) / self.width) * torch.where(hits, 1.0, -self.false_alarms)


@torch.no_grad()
def judged(found: Detections, target: Target) -> tuple[Bool[Tensor, "D"], Bool[Tensor, "D"]]:
    """Which detections of an image, best first, are hits and which are false alarms.

    By the rules of `robustdet.evaluation.average_precision.match_detections`, on the device where they are.
    """
    if not len(found.scores) or not len(target.labels):
        return torch.zeros_like(found.labels, dtype=torch.bool), torch.ones_like(found.labels, dtype=torch.bool)
    labels, countable = target.labels.to(found.labels), ~(target.difficult | target.crowd).to(found.labels.device)
    overlaps = box_iou(found.boxes, target.boxes.to(found.boxes)).nan_to_num()  # of two empty boxes: 0/0
    best, owner = overlaps.masked_fill(found.labels[:, None] != labels, -1).max(dim=1)
    owned = F.one_hot(owner, len(labels)).bool() & (best >= IOU)[:, None]
    first = (owned & (owned.cumsum(dim=0) == 1)).any(dim=1)
    counts = ~owned.any(dim=1) | countable[owner]
    return first & counts, ~first & counts
