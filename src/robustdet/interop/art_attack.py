"""ART's projected gradient descent as an attack of ours: an independent implementation to hold our own against.

M. Nicolae et al., Adversarial Robustness Toolbox v1.0.0, arXiv 1807.01069; the extra `art`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from robustdet.attacks import BaseAttack, DetectorVictim, LInf
from robustdet.attacks.base import require_count
from robustdet.attacks.objectives import a_cls, a_loc, total
from robustdet.attacks.threat import PixelFraction, check_images, pixel_fraction
from robustdet.attacks.victim import evaluation_mode
from robustdet.errors import InputError, KindError
from robustdet.interop.art_estimator import LOSSES, Loss, art_targets, as_art
from robustdet.types import HasLosses, Images, Objective, Targets, Victim

CLIMBED: dict[tuple[Loss, ...], Objective] = {LOSSES[:1]: a_cls, LOSSES[1:]: a_loc, LOSSES: total}


class ArtPGD(BaseAttack):
    """``steps`` sign steps of ``step_size`` from the clean image up the sum of ``losses``: `PGD`, but ART computes all.

    What it climbs is a batch's loss divided by its positives; our PGD climbs each image's own sum. The two gradients
    differ by one positive factor, which a sign passes over. ART's images lie outside of their ball by float32's
    rounding and are projected once more at the end.
    """

    threat: LInf

    def __init__(
        self,
        losses: Sequence[Loss],
        threat: LInf,
        steps: int,
        step_size: PixelFraction,
    ) -> None:
        chosen = tuple(name for name in LOSSES if name in losses)
        if chosen not in CLIMBED or set(losses) - set(LOSSES):
            raise InputError(f"attack.losses={list(losses)}: expected {', '.join(LOSSES)} or both")
        self.losses = chosen
        self.objective = CLIMBED[chosen]
        self.threat = threat
        self.steps = require_count("steps", steps)
        self.step_size = pixel_fraction(step_size)

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        if not isinstance(victim, DetectorVictim) or not isinstance(victim.detector, HasLosses):
            raise KindError(f"ART's PGD needs a detector with losses, got {type(victim).__name__}")
        attacks = _art()
        with evaluation_mode(victim.detector):  # type: ignore[arg-type]
            twin = copy.deepcopy(victim.detector)  # of its own, ART would throw away gradients that wait for an update
            estimator = as_art(twin, self.losses, device_type="gpu" if images.is_cuda else "cpu")
            pgd = attacks.ProjectedGradientDescent(
                estimator,
                norm="inf",
                eps=self.threat.epsilon,
                eps_step=self.step_size,
                max_iter=self.steps,
                batch_size=len(images),
                verbose=False,
            )
            made = torch.from_numpy(pgd.generate(images.cpu().numpy(), art_targets(targets)))
        return self.threat.project(made.to(images), images)


def _art() -> Any:
    """Raises InputError where it is not installed."""
    try:
        from art.attacks import evasion
    except ImportError as error:
        raise InputError("attack=art_pgd needs ART: pip install 'robustdet[art]'") from error
    return evasion
