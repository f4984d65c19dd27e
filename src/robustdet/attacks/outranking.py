"""What average precision is made of, as an objective: wrong detections that rank above right ones.

A detection loss is a poor stand-in for AP. It can rise a long way while every object is still found, and most of its
default boxes have no part in any detection. AP falls where a wrong detection has a higher score than a right one: the
pairwise view behind AP-loss (Chen et al., CVPR 2019, arXiv 1904.06373), turned against the detector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from robustdet.attacks.victim import BorrowedScores, require_scores
from robustdet.errors import InputError
from robustdet.types import BorrowedVictim, Images, Objective, Offer, moved

IOU = 0.5  # from which on a detection finds an object, as AP counts
LOST = -1e4  # the log-probability where there is no such box: finite, so that its gradient is zero and not NaN


class Outranking:
    """Objects that are found are pushed below the wrong detections of their class; for PGD, APGD or Square.

    -Σ_objects [σ₊(r - w) + σ₊(r - θ)] - λ Σ_classes σ₊(θ - w), σ₊(x) = τ log(1 + e^(x/τ)), with log-sums over boxes,

    - r = τ log Σ p^(1/τ) over the boxes that find the object: they overlap it by 0.5 or more as they are placed now;
      p is the probability of the object's class;
    - w = τ log Σ p^(1/τ) of a class over all boxes that find no object of it: AP ranks a class's detections alone, and
      leaves out what finds a difficult object or a crowd.

    The other images' detections, which these are ranked among, are stood for by a ``level`` θ, a log-probability: right
    ones are to fall below it, wrong ones to rise above it (λ, ``false_alarms``, weighs that). So each image's value
    depends on that image alone. What is below, or above, by far gives way to what is not, and which boxes find an
    object changes as the attack goes on. A lower ``temperature`` τ listens to the best box of each kind more than to
    their sum.
    """

    needs: Offer = "scores"
    passes_over_difficult = True

    def __init__(
        self, temperature: float | int = 1.0, level: float | int = -1.0, false_alarms: float | int = 0.6
    ) -> None:
        if not temperature > 0:
            raise InputError(f"expected a positive temperature, got {temperature!r}")
        self.temperature = temperature
        self.level = level
        self.false_alarms = false_alarms

    def prepare(self, model: BorrowedVictim, clean: Images) -> Objective:
        """The objects of all images as one tensor, so that a step copies nothing to the device."""
        objects = _padded(require_scores(model, "Outranking"), clean)

        def objective(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
            return self._value(model, images, objects)

        return objective

    def _value(self, model: BorrowedVictim, images: Images, objects: _Objects) -> Float[Tensor, "B"]:
        detector = require_scores(model, "Outranking")
        raw = detector.predict(images)
        classes = detector.detector.num_classes  # outputs beyond them are never detected
        foreground = raw.log_probabilities[..., 1 : 1 + classes] / self.temperature
        with torch.no_grad():
            finds = (detector.overlaps_of(raw, objects.boxes) >= IOU) & objects.real.unsqueeze(1)
            of_class = F.one_hot(objects.labels, classes).to(foreground)
            not_wrong = torch.bmm(finds.to(foreground), of_class) > 0
        wrong = foreground.masked_fill(not_wrong, LOST).logsumexp(dim=1)
        index = objects.labels.unsqueeze(1).expand(-1, foreground.shape[1], -1)
        found = foreground.gather(2, index).masked_fill(~finds, LOST).logsumexp(dim=1)
        level = self.level / self.temperature
        standing = F.softplus(found - wrong.gather(1, objects.labels)) + F.softplus(found - level)
        silent = F.softplus(level - wrong).sum(dim=1)
        return -self.temperature * ((standing * objects.counts).sum(dim=1) + self.false_alarms * silent)


@dataclass(frozen=True)
class _Objects:
    """Of all images, filled up to the same number with what is not ``real``; labels from 0. Those that AP asks for
    (neither difficult nor crowd) ``count``.
    """

    boxes: Float[Tensor, "B N 4"]
    labels: Int[Tensor, "B N"]
    real: Bool[Tensor, "B N"]
    counts: Bool[Tensor, "B N"]


def _padded(detector: BorrowedScores, images: Images) -> _Objects:
    most = max((len(target.labels) for target in detector.targets), default=0)
    boxes = torch.zeros(len(detector.targets), max(most, 1), 4, dtype=images.dtype)
    labels = torch.zeros(boxes.shape[:2], dtype=torch.long)
    real, counts = torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(labels, dtype=torch.bool)
    for row, target in enumerate(detector.targets):
        own = slice(len(target.labels))
        boxes[row, own] = target.boxes.to(boxes)
        labels[row, own] = target.labels - 1
        real[row, own], counts[row, own] = True, ~(target.difficult | target.crowd)
    return _Objects(*(moved(field, images.device) for field in (boxes, labels, real, counts)))
