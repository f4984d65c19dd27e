"""Auto-PGD (Croce & Hein, ICML 2020, arXiv 2003.01690, Algorithm 1) for any objective of a detector, from
several starts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from math import ceil

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robustdet.attacks.base import BaseAttack, require_attack
from robustdet.attacks.objectives import prepared
from robustdet.attacks.threat import LInf, PixelFraction, check_images, pixel_fraction
from robustdet.attacks.victim import input_gradient
from robustdet.errors import InputError
from robustdet.types import Attack, BorrowedVictim, Images, Objective, Offer, PreparedObjective, Targets, Victim, most

MOMENTUM = 0.75  # α of the paper: the share of the new step
RISING = 0.75  # ρ: a smaller share of rising steps between two checkpoints halves the step
STARTS = ("clean", "random", "best")


class APGD(BaseAttack):
    """Sign steps with momentum whose size is halved, image by image, where the objective no longer rises enough.

    From each of ``starts`` in turn it takes ``steps`` steps: the clean image, a random one in ``threat``, each image's
    best so far, or what an attack makes. The first step has ``first_step``, a fraction of the pixel range; None is the
    paper's 2 ε. A discriminator notices a random start, and a first step that is large: it needs "clean" and a small
    one. The result is each image's highest point over all iterates of all climbs and the clean image: no climb, and no
    attack, lowers an objective. Where nothing raises it the image stays clean.
    """

    objective: Objective | PreparedObjective
    threat: LInf

    def __init__(
        self,
        objective: Objective | PreparedObjective,
        threat: LInf,
        steps: int = 100,
        starts: Sequence[str | Attack] = ("clean", "random", "random", "random", "best"),
        first_step: PixelFraction | None = None,
    ) -> None:
        if not starts or any(isinstance(start, str) and start not in STARTS for start in starts):
            raise InputError(f"expected one start or more out of {', '.join(STARTS)} or an attack, got {list(starts)}")
        self.objective = objective
        self.threat = threat
        self.steps = steps
        self.starts = tuple(start if isinstance(start, str) else require_attack(start) for start in starts)
        self.first_step = 2 * threat.epsilon if first_step is None else pixel_fraction(first_step)
        self._checkpoints = frozenset(checkpoints(steps))

    @property
    def needs(self) -> Offer:
        return most(super().needs, *(start.needs for start in self.starts if not isinstance(start, str)))

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        with victim.borrow(targets) as model:
            best = images.clone()
            objective = prepared(self.objective, model, images)
            with torch.no_grad():
                value = objective(model, best)
            for kind in self.starts:
                if isinstance(kind, str):
                    start = {"clean": images, "best": best}.get(kind)
                    start = self.threat.uniform(images, generators) if start is None else start
                else:
                    start = self.threat.project(kind(victim, images, targets, generators), images)
                peak = self._climb(objective, model, start, images)
                best = torch.where(_per_image(peak.value > value), peak.images, best)
                value = torch.maximum(value, peak.value)
        return best

    def _climb(self, objective: Objective, model: BorrowedVictim, start: Images, clean: Images) -> _Peak:
        """The highest point that one run meets on its way."""
        current, previous = start, start
        value, gradient = _value_and_gradient(objective, model, start)
        peak = _Peak(current, value, gradient)
        step = start.new_full((len(start),), self.first_step)  # whatever the type of the objective's values
        control = _StepControl(value)
        for number in range(1, self.steps + 1):
            moved = self.threat.project(current + _per_image(step) * gradient.sign(), clean)
            share = MOMENTUM if number > 1 else 1.0
            moved = current + share * (moved - current) + (1 - share) * (current - previous)
            current, previous = self.threat.project(moved, clean), current
            before = value
            value, gradient = _value_and_gradient(objective, model, current)
            peak.rise(current, value, gradient)
            control.rises += value > before
            control.steps += 1
            if number in self._checkpoints:
                stuck = control.stuck(peak.value)
                step = torch.where(stuck, step / 2, step)
                current, gradient = (
                    torch.where(_per_image(stuck), best, here)
                    for best, here in ((peak.images, current), (peak.gradient, gradient))
                )
                value = torch.where(stuck, peak.value, value)
        return peak


def _value_and_gradient(
    objective: Objective, model: BorrowedVictim, images: Images
) -> tuple[Float[Tensor, "B"], Images]:
    images = images.detach().requires_grad_()
    value = objective(model, images)
    return value.detach(), input_gradient(value, images)


def checkpoints(steps: int) -> list[int]:
    """The steps after which sizes are judged: 0.22 of all, then intervals that shrink by 0.03 down to 0.06."""
    intervals = (max(22 - 3 * number, 6) for number in range(100))
    return [ceil(steps * percent / 100) for percent in takewhile(lambda percent: percent <= 100, accumulate(intervals))]


class _Peak:
    """Each image's highest point so far, with its objective and gradient."""

    def __init__(self, images: Images, value: Float[Tensor, "B"], gradient: Images) -> None:
        self.images, self.value, self.gradient = images, value, gradient

    def rise(self, images: Images, value: Float[Tensor, "B"], gradient: Images) -> None:
        higher = value > self.value
        self.images = torch.where(_per_image(higher), images, self.images)
        self.gradient = torch.where(_per_image(higher), gradient, self.gradient)
        self.value = torch.where(higher, value, self.value)


class _StepControl:
    """What is remembered, image by image, from one checkpoint to the next."""

    def __init__(self, value: Float[Tensor, "B"]) -> None:
        self.rises, self.steps = torch.zeros_like(value), 0
        self.peak_then = value
        self.halved_then = torch.ones_like(value, dtype=torch.bool)  # the first checkpoint has none to compare with

    def stuck(self, peak: Float[Tensor, "B"]) -> Bool[Tensor, "B"]:
        """Conditions 1 and 2 of the paper: too few steps rose, or neither step size nor peak changed; starts anew."""
        stuck = (self.rises < RISING * self.steps) | (~self.halved_then & (peak == self.peak_then))
        self.rises, self.steps = torch.zeros_like(self.rises), 0
        self.halved_then, self.peak_then = stuck, peak
        return stuck


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
