"""The learning-rate schedule that torch does not have ready-made, counted in weight updates.

Its `LinearLR` and `CosineAnnealingLR` in a `SequentialLR` come close, but the cosine rises again behind its end, where
training goes on once ``trainer.max_steps`` is raised, and fails where the warm-up is all there is.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from robustdet.errors import InputError


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Linear warm-up over ``warmup_steps``, then half a cosine down to zero at ``total_steps``.

    Raises ``ValueError`` when there is no end to count towards.
    """
    if total_steps <= 0:
        raise InputError(f"warmup_cosine needs an end: trainer.max_steps is {total_steps}, expected a positive number")
    warmup_steps = min(warmup_steps, total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
