"""SSD's training objective (section 2.2 there), image by image and not yet divided by the number of positives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from robustdet.types import Assignment, BoxLosses, DetectionLosses, RawPredictions


@dataclass(frozen=True)
class MultiBoxLoss:
    """Cross-entropy over positives and mined negatives, smooth L1 (beta 1) over positives.

    Each image brings ``negatives_per_positive`` negatives for each of its positives: those default boxes of the
    background whose cross-entropy is largest. An image without positives therefore has no negatives either: its losses
    are 0 and so are its gradients, as in the original.
    """

    negatives_per_positive: int = 3

    def __call__(self, raw: RawPredictions, assignment: Assignment) -> DetectionLosses:
        each = self.box_losses(raw, assignment)
        positive = assignment.labels > 0
        counted = positive | self.hard_negatives(each.cross_entropy, positive)
        return DetectionLosses(
            classification=torch.where(counted, each.cross_entropy, 0).sum(dim=1),
            localization=each.localization.sum(dim=1),
            num_positives=positive.sum(dim=1),
        )

    def localization(self, raw: RawPredictions, assignment: Assignment) -> Float[Tensor, "B"]:
        """That of the whole, without the cross-entropy and the mining."""
        return self._smooth_l1(raw, assignment).sum(dim=1)

    def box_losses(self, raw: RawPredictions, assignment: Assignment) -> BoxLosses:
        """Both losses of every default box, in single precision at least."""
        logits, labels = raw.cls_logits, assignment.labels
        cross_entropy = F.cross_entropy(_full(logits).flatten(0, 1), labels.flatten(), reduction="none")
        return BoxLosses(cross_entropy.view_as(labels), self._smooth_l1(raw, assignment))

    def _smooth_l1(self, raw: RawPredictions, assignment: Assignment) -> Float[Tensor, "B P"]:
        """Of every default box, summed over its four offsets; 0 where it is background."""
        each = F.smooth_l1_loss(_full(raw.bbox_regression), assignment.regression_targets, reduction="none")
        return torch.where(assignment.labels > 0, each.sum(dim=-1), 0)

    def hard_negatives(self, cross_entropy: Float[Tensor, "B P"], positive: Bool[Tensor, "B P"]) -> Bool[Tensor, "B P"]:
        """The background boxes with the largest loss: for each image as many as it has positives, times the ratio.

        Of equal losses the box with the lower index is taken. Nothing is differentiated: mining is a choice.
        """
        hardness = cross_entropy.detach().masked_fill(positive, -1)  # below any cross-entropy
        order = hardness.argsort(dim=1, descending=True, stable=True)
        wanted = self.negatives_per_positive * positive.sum(dim=1, keepdim=True)
        taken = torch.arange(order.shape[1], device=order.device) < wanted
        return torch.zeros_like(positive).scatter(1, order, taken) & ~positive


def _full(values: Tensor) -> Tensor:
    """Sums over thousands of boxes need more than half precision; double stays double."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
