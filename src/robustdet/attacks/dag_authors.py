"""What the published RobustDet code calls DAG; kept to reproduce its numbers, comparable with no other's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustdet.attacks.base import BaseAttack, require_count
from robustdet.attacks.dag import draw_for_boxes, likeliest, margin, scaled_to, wrong_label
from robustdet.attacks.threat import PixelFraction, PixelRange, check_images, pixel_fraction
from robustdet.attacks.victim import input_gradient, require_scores
from robustdet.types import Images, Offer, Targets, Victim


class DAGAuthors(BaseAttack):
    """DAG that never accumulates: every gradient is taken one step of ``gamma`` away from the clean image.

    All places, background too, are targets until they say their random wrong label, which may be background.
    The ``steps`` perturbations are added up at the end, so the result is up to steps · gamma away (75/255), whatever ε.
    Where no target is left the published code divides 0 by 0; here that step is zero.
    """

    needs: Offer = "scores"

    def __init__(self, steps: int = 150, gamma: PixelFraction = "0.5/255") -> None:
        self.threat = PixelRange()
        self.steps = require_count("steps", steps)
        self.gamma = pixel_fraction(gamma)

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        latest, summed = torch.zeros_like(images), torch.zeros_like(images)
        with victim.borrow(targets) as model:
            detector = require_scores(model, "DAG")
            true, draws = detector.assignment.labels, draw_for_boxes(detector.assignment.labels, generators)
            for _ in range(self.steps):
                current = self.threat.project(images + latest, images).requires_grad_()
                raw = detector.predict(current)
                said = raw.log_probabilities
                wrong = wrong_label(true, draws, first=0, end=said.shape[-1])
                missed = likeliest(said, raw.exclusive) != wrong
                gradient = input_gradient((margin(said, wrong, true) * missed).sum(dim=1), current)
                latest = scaled_to(self.gamma, gradient)
                summed += latest
        return self.threat.project(images + summed, images)
