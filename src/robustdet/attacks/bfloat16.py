"""An attack that computes in bfloat16: faster where the hardware has it, and with gradients of 8 significant bits.

Whether that makes an attack weaker depends on the victim: docs/performance.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from robustdet.attacks.base import BaseAttack, require_attack
from robustdet.attacks.victim import Forward, require_scores, require_scores_victim
from robustdet.types import Attack, BorrowedVictim, Images, Offer, RawPredictions, StepwiseAttack, Targets, Victim

USER = "an attack in bfloat16"


class BFloat16(BaseAttack):
    """Runs ``attack`` with the victim's forward and backward passes autocast to bfloat16; losses stay in float32.

    It has a ``step`` where the attack has one.
    """

    needs: Offer = "scores"

    def __init__(self, attack: Attack) -> None:
        self.attack = require_attack(attack)
        self.threat, self.knowledge = attack.threat, attack.knowledge
        self.objective, self.objective_bound = attack.objective, attack.objective_bound
        if isinstance(attack, StepwiseAttack):
            self.step = partial(_rounded_step, attack)

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        return self.attack(require_scores_victim(victim, USER).altered(rounded), images, targets, generators)


def _rounded_step(
    attack: StepwiseAttack,
    model: BorrowedVictim,
    adversarial: Images,
    clean: Images,
    step_size: float | Tensor | None = None,
) -> Images:
    return attack.step(require_scores(model, USER).altered(rounded), adversarial, clean, step_size)


def rounded(forward: Forward) -> Forward:
    """The same forward pass, autocast to bfloat16; what it says is float32 again."""

    def other(images: Images, routing: Tensor | None = None, /) -> RawPredictions:
        with torch.autocast(images.device.type, torch.bfloat16):
            raw = forward(images, routing)
        said = {field.name: getattr(raw, field.name) for field in fields(raw)}
        halved = {name: value for name, value in said.items() if _is_bfloat16(value)}
        return replace(raw, **{name: value.float() for name, value in halved.items()})

    return other


def _is_bfloat16(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16
