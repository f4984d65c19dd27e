"""An attack that computes in bfloat16: faster where the hardware has it, and with gradients of 8 significant bits.

Whether that makes an attack weaker depends on the victim: docs/performance.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from robustdet.attacks.pgd import StepSize
from robustdet.attacks.sight import what_it_sees
from robustdet.attacks.threat import Threat
from robustdet.attacks.victim import Altered, require_detector
from robustdet.types import Attack, BorrowedDetector, BorrowedVictim, Images, Targets, Victim


class BFloat16:
    """Runs ``attack`` with the victim's forward and backward passes autocast to bfloat16; losses stay in float32.

    In a schedule (``attack=bfloat16``) the attack must be one that steps, such as PGD or MTD.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack

    @property
    def sees(self) -> str:
        """That of the attack."""
        return what_it_sees(self.attack)

    @property
    def threat(self) -> Threat:
        """That of the attack."""
        return self.attack.threat  # type: ignore[attr-defined]

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        return self.attack(_RoundedVictim(victim), images, targets, generators)

    def step(
        self, model: BorrowedVictim, adversarial: Images, clean: Images, step_size: StepSize | None = None
    ) -> Images:
        return self.attack.step(_rounded(model), adversarial, clean, step_size)  # type: ignore[attr-defined]


@dataclass
class _RoundedVictim:
    victim: Victim

    @contextmanager
    def borrow(self, targets: Targets) -> Iterator[BorrowedDetector]:
        with self.victim.borrow(targets) as model:
            yield _rounded(model)


def _rounded(model: BorrowedVictim) -> BorrowedDetector:
    return _Rounded(require_detector(model, "an attack in bfloat16"))


class _Rounded(Altered):
    def predict(self, images: Images, *routing: Tensor | None) -> Any:
        with torch.autocast(images.device.type, torch.bfloat16):
            raw = self.model.predict(images, *routing)
        return replace(raw, **{name: value.float() for name, value in _rounded_fields(raw)})


def _rounded_fields(raw: Any) -> Iterator[tuple[str, Tensor]]:
    for field in fields(raw):
        value = getattr(raw, field.name)
        if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
            yield field.name, value
