"""Adam on pixels that a tanh keeps inside the ball (the change of variable of Carlini & Wagner, S&P 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustdet.attacks.ascent import Ascent, Peak, value_and_gradient
from robustdet.attacks.threat import LInf
from robustdet.errors import InputError
from robustdet.types import Attack, BorrowedVictim, Images, Objective, PreparedObjective

INSIDE = 0.999  # of the way from the middle of a pixel's range to its end: a tanh reaches the end at infinity alone
HIGHEST = 100  # a rate that carries a tanh from one end to the other in a step, many times over


class Adam(Ascent):
    """Climbs by Adam (Kingma & Ba, ICLR 2015) where sign steps have come to rest: each pixel's step has its own size.

    A pixel is m + h tanh(z), m and h the middle and half the width of what ``threat`` leaves it; z, a pure number,
    moves by about ``rate`` a step, which is above 0. An image's gradient is divided by its mean absolute value first,
    so that the objective's scale counts for nothing.
    """

    def __init__(
        self,
        objective: Objective | PreparedObjective,
        threat: LInf,
        steps: int = 50,
        starts: Sequence[str | Attack] = ("clean",),
        rate: float | int = 0.2,
    ) -> None:
        super().__init__(objective, threat, steps, starts)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= HIGHEST:
            raise InputError(f"expected a rate above 0 and up to {HIGHEST}, got rate={rate!r}")
        self.rate = rate

    def climb(self, objective: Objective, model: BorrowedVictim, start: Images, clean: Images) -> Peak:
        lowest, highest = self.threat.project(clean - 1, clean), self.threat.project(clean + 1, clean)
        middle, half = (lowest + highest) / 2, (highest - lowest) / 2
        least = torch.finfo(start.dtype).tiny
        z = ((start - middle) / half.clamp(min=least)).clamp(-INSIDE, INSIDE).atanh()
        adam = torch.optim.Adam([z], lr=self.rate, maximize=True)
        value, gradient = value_and_gradient(objective, model, start)
        peak = Peak(start, value, gradient)
        for _ in range(self.steps):
            slope = gradient * half * (1 - z.tanh().square())
            z.grad = slope / slope.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=least)
            adam.step()
            current = self.threat.project(middle + half * z.tanh(), clean)
            value, gradient = value_and_gradient(objective, model, current)
            peak.rise(current, value, gradient)
        return peak
