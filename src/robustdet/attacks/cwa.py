"""Class-wise objectives: every class in an image weighs the same, however many objects or default boxes it has."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustdet.attacks.objectives import needing
from robustdet.attacks.victim import require_scores
from robustdet.errors import InputError
from robustdet.types import BorrowedVictim, Images, Offer


class ClassWise:
    """CWAT's objective (Chen, Kung & Chen, CVPR 2021, arXiv 2103.16148), to be maximised by PGD.

    An object's loss is the mean cross-entropy of its places (an SSD's default boxes) plus their mean localisation loss,
    each cut at ``clip`` so that none dominates; a class's loss is the mean over its objects, an image's the mean over
    its classes. The paper gives no bound: at 5 the true class has lost all but 0.7 % of its probability and is below
    SSD's score threshold of 0.01, so that objects which are already lost give way to those which are not.
    """

    needs: Offer = "scores"

    def __init__(self, clip: float = 5.0) -> None:
        if not clip > 0:
            raise InputError(f"expected a positive bound for an object's loss, got clip={clip!r}")
        self.clip = clip

    def __call__(self, model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
        detector = require_scores(model, "CWA")
        raw = detector.predict(images)
        losses, owners = detector.box_losses_of(raw), detector.assignment.objects + 1
        num_objects = detector.most_objects
        cross_entropy, localization = (
            _group_means(task, owners, num_objects) for task in (losses.cross_entropy, losses.localization)
        )
        # an object that no place answers for keeps label 0 and drops out with the background
        labels = owners.new_zeros(len(images), num_objects + 1).scatter(1, owners, detector.assignment.labels)[:, 1:]
        object_losses = cross_entropy.clamp(max=self.clip) + localization.clamp(max=self.clip)
        return _class_balanced(object_losses, labels, num_classes=detector.detector.num_classes)


@needing("scores")
def class_wise_over_boxes(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """What the published RobustDet code calls CWA: means over a class's places, not objects, and nothing cut."""
    detector = require_scores(model, "CWA")
    raw = detector.predict(images)
    losses = detector.box_losses_of(raw)
    box_losses = losses.cross_entropy + losses.localization
    return _class_balanced(box_losses, detector.assignment.labels, num_classes=detector.detector.num_classes)


def _class_balanced(losses: Float[Tensor, "B n"], labels: Int[Tensor, "B n"], num_classes: int) -> Float[Tensor, "B"]:
    """Mean over the classes present in an image of the mean loss of each; label 0 is left out, no class gives 0."""
    present = torch.zeros(len(losses), num_classes + 1, device=losses.device).scatter(1, labels, 1.0)[:, 1:]
    return _group_means(losses, labels, num_classes).sum(dim=1) / present.sum(dim=1).clamp(min=1)


def _group_means(values: Float[Tensor, "B n"], groups: Int[Tensor, "B n"], num_groups: int) -> Float[Tensor, "B g"]:
    """Mean of an image's values in each group 1..num_groups, 0 where a group is empty; group 0 is left out."""
    sums, counts = (
        values.new_zeros(len(values), num_groups + 1).scatter_add(1, groups, summand)[:, 1:]
        for summand in (values, torch.ones_like(values))
    )
    return sums / counts.clamp(min=1)
