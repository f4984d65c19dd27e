"""Auto-PGD (Croce & Hein, ICML 2020, arXiv 2003.01690, Algorithm 1) for any objective of a detector, from
several starts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from math import ceil

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robustdet.attacks.ascent import Ascent, Peak, per_image, value_and_gradient
from robustdet.attacks.threat import LInf, PixelFraction, pixel_fraction
from robustdet.types import Attack, BorrowedVictim, Images, Objective, PreparedObjective

MOMENTUM = 0.75  # α of the paper: the share of the new step
RISING = 0.75  # ρ: a smaller share of rising steps between two checkpoints halves the step


class APGD(Ascent):
    """Sign steps with momentum whose size is halved, image by image, where the objective no longer rises enough.

    The first step has ``first_step``, a fraction of the pixel range; None is the paper's 2 ε. A discriminator notices a
    random start, and a first step that is large: it needs "clean" and a small one.
    """

    def __init__(
        self,
        objective: Objective | PreparedObjective,
        threat: LInf,
        steps: int = 100,
        starts: Sequence[str | Attack] = ("clean", "random", "random", "random", "best"),
        first_step: PixelFraction | None = None,
    ) -> None:
        super().__init__(objective, threat, steps, starts)
        self.first_step = 2 * threat.epsilon if first_step is None else pixel_fraction(first_step)
        self._checkpoints = frozenset(checkpoints(steps))

    def climb(self, objective: Objective, model: BorrowedVictim, start: Images, clean: Images) -> Peak:
        current, previous = start, start
        value, gradient = value_and_gradient(objective, model, start)
        peak = Peak(current, value, gradient)
        step = start.new_full((len(start),), self.first_step)  # whatever the type of the objective's values
        control = _StepControl(value)
        for number in range(1, self.steps + 1):
            moved = self.threat.project(current + per_image(step) * gradient.sign(), clean)
            share = MOMENTUM if number > 1 else 1.0
            moved = current + share * (moved - current) + (1 - share) * (current - previous)
            current, previous = self.threat.project(moved, clean), current
            before = value
            value, gradient = value_and_gradient(objective, model, current)
            peak.rise(current, value, gradient)
            control.rises += value > before
            control.steps += 1
            if number in self._checkpoints:
                stuck = control.stuck(peak.value)
                step = torch.where(stuck, step / 2, step)
                current, gradient = (
                    torch.where(per_image(stuck), best, here)
                    for best, here in ((peak.images, current), (peak.gradient, gradient))
                )
                value = torch.where(stuck, peak.value, value)
        return peak


def checkpoints(steps: int) -> list[int]:
    """The steps after which sizes are judged: 0.22 of all, then intervals that shrink by 0.03 down to 0.06."""
    intervals = (max(22 - 3 * number, 6) for number in range(100))
    return [ceil(steps * percent / 100) for percent in takewhile(lambda percent: percent <= 100, accumulate(intervals))]


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
