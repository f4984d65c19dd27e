"""An attacker without the annotations: the victim's own detections on the clean image are what has to be missed."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float

from robustdet.attacks.objectives import needs_of, prepared
from robustdet.attacks.victim import require_detector
from robustdet.types import BorrowedVictim, Detections, Images, Objective, PreparedObjective, Target


class OwnPredictions:
    """``objective`` against what the victim detects on the clean images, for any attack. The annotations have no say.

    Targets are the detections with a score of ``threshold`` or more, of every image the best one at least. Boxes are
    cut to the image; what is less than a pixel wide or high is left out.
    """

    def __init__(self, objective: Objective | PreparedObjective, threshold: float = 0.3) -> None:
        self.objective = objective
        self.threshold = threshold
        self.needs = needs_of(objective)

    def prepare(self, model: BorrowedVictim, clean: Images) -> Objective:
        victim = require_detector(model, "OwnPredictions")
        found = victim.detections_of(victim.predict(clean))
        targets = [own_target(*each, self.threshold) for each in zip(found, clean, strict=True)]
        about_own = victim.about(targets)
        missed = prepared(self.objective, about_own, clean)

        def objective(model: BorrowedVictim, images: Images) -> Float[torch.Tensor, "B"]:
            given = require_detector(model, "OwnPredictions")
            return missed(replace(given, targets=targets, assignment=about_own.assignment), images)

        return objective


def own_target(found: Detections, image: Float[torch.Tensor, "3 H W"], threshold: float) -> Target:
    """Detections of an image, best first, as its objects."""
    height, width = image.shape[1:]
    found = found.to("cpu")
    boxes = found.boxes.clamp(min=0).minimum(found.boxes.new_tensor([width, height, width, height]))
    large = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
    boxes, scores, labels = boxes[large], found.scores[large], found.labels[large]
    keep = scores >= scores.amax().clamp(max=threshold) if len(scores) else scores > 0
    no = torch.zeros_like(labels[keep], dtype=torch.bool)
    return Target(boxes[keep], labels[keep], no, no, "as detected", (height, width))
