"""Projected gradient ascent on the sign of the input gradient (Madry et al., ICLR 2018), for any objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.objectives import Objective
from robustdet.attacks.threat import LInf, PixelFraction, check_images, pixel_fraction
from robustdet.attacks.victim import input_gradient
from robustdet.types import BorrowedVictim, Images, Targets, Victim

StepSize: TypeAlias = PixelFraction | Float[Tensor, "B"]


class SignAttack(ABC):
    """``steps`` sign steps of ``step_size`` (a fraction of the pixel range, such as "2/255") inside ``threat``.

    Starts at the clean image, or at a random one of the ball (``random_start``); the last iterate is the result.
    """

    def __init__(self, threat: LInf, steps: int, step_size: PixelFraction, random_start: bool = False) -> None:
        self.threat = threat
        self.steps = steps
        self.step_size = pixel_fraction(step_size)
        self.random_start = random_start

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        adversarial = self.threat.uniform(images, generators) if self.random_start else images.clone()
        with victim.borrow(targets) as model:
            return self._all_steps(model, adversarial, images)

    def _all_steps(self, model: BorrowedVictim, adversarial: Images, clean: Images) -> Images:
        for _ in range(self.steps):
            adversarial = self.step(model, adversarial, clean)
        return adversarial

    @abstractmethod
    def step(
        self, model: BorrowedVictim, adversarial: Images, clean: Images, step_size: StepSize | None = None
    ) -> Images:
        """The next iterate; ``step_size`` replaces the attack's own, one for all images or one each."""

    def _move(self, adversarial: Images, clean: Images, gradient: Images, step_size: StepSize | None) -> Images:
        if isinstance(step_size, Tensor):
            return self.threat.project(adversarial + step_size.view(-1, 1, 1, 1) * gradient.sign(), clean)
        size = self.step_size if step_size is None else pixel_fraction(step_size)
        return self.threat.project(adversarial + size * gradient.sign(), clean)


class PGD(SignAttack):
    """Maximises one ``objective`` (see :mod:`robustdet.attacks.objectives`)."""

    def __init__(
        self,
        objective: Objective,
        threat: LInf,
        steps: int,
        step_size: PixelFraction,
        random_start: bool = False,
    ) -> None:
        super().__init__(threat, steps, step_size, random_start)
        self.objective = objective

    def step(
        self, model: BorrowedVictim, adversarial: Images, clean: Images, step_size: StepSize | None = None
    ) -> Images:
        images = adversarial.detach().requires_grad_()
        gradient = input_gradient(self.objective(model, images), images)
        return self._move(adversarial, clean, gradient, step_size)
