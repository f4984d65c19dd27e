"""Projected gradient ascent on the sign of the input gradient (Madry et al., ICLR 2018), for any objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.base import BaseAttack, require_attack, require_count
from robustdet.attacks.objectives import prepared
from robustdet.attacks.threat import LInf, PixelFraction, check_images, pixel_fraction
from robustdet.attacks.victim import input_gradient
from robustdet.errors import InputError
from robustdet.types import (
    Attack,
    BorrowedVictim,
    Images,
    Objective,
    Offer,
    PreparedObjective,
    Targets,
    Threat,
    Victim,
    most,
)

StepSize: TypeAlias = PixelFraction | Float[Tensor, "B"]


class PGD(BaseAttack):
    """``steps`` sign steps of ``step_size`` (a fraction of the pixel range, such as "2/255") up ``objective``.

    Starts at the clean image, at a random one of ``threat`` (``random_start``), or at what the attack ``start`` makes;
    the last iterate is the result.
    """

    objective: Objective | PreparedObjective
    threat: LInf

    def __init__(
        self,
        objective: Objective | PreparedObjective,
        threat: LInf,
        steps: int,
        step_size: PixelFraction,
        random_start: bool = False,
        start: Attack | None = None,
    ) -> None:
        if random_start and start is not None:
            raise InputError("an attack starts at a random image or at what another attack makes, not at both")
        self.objective = objective
        self.threat = threat
        self.steps = require_count("steps", steps)
        self.step_size = pixel_fraction(step_size)
        self.random_start = random_start
        self.start = None if start is None else require_attack(start)

    @property
    def needs(self) -> Offer:
        return most(super().needs, *([] if self.start is None else [self.start.needs]))

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        adversarial = images.clone()
        if self.random_start:
            adversarial = self.threat.uniform(images, generators)
        elif self.start is not None:
            adversarial = self.threat.project(self.start(victim, images, targets, generators), images)
        with victim.borrow(targets) as model:
            objective = prepared(self.objective, model, images)
            for _ in range(self.steps):
                adversarial = self._ascend(objective, model, adversarial, images, self.step_size)
        return adversarial

    def step(
        self, model: BorrowedVictim, adversarial: Images, clean: Images, step_size: StepSize | None = None
    ) -> Images:
        """The next iterate; ``step_size`` replaces the attack's own, one for all images or one each."""
        size = self.step_size if step_size is None else step_size
        return self._ascend(prepared(self.objective, model, clean), model, adversarial, clean, size)

    def _ascend(
        self, objective: Objective, model: BorrowedVictim, adversarial: Images, clean: Images, size: StepSize
    ) -> Images:
        images = adversarial.detach().requires_grad_()
        gradient = input_gradient(objective(model, images), images)
        return sign_step(self.threat, adversarial, clean, gradient, size)


def sign_step(threat: Threat, adversarial: Images, clean: Images, gradient: Images, size: StepSize) -> Images:
    """``adversarial`` moved by ``size``, a fraction of the pixel range, along the gradient's sign, then projected."""
    length = size.view(-1, 1, 1, 1) if isinstance(size, Tensor) else pixel_fraction(size)
    return threat.project(adversarial + length * gradient.sign(), clean)
