"""Black box by transfer: images made on another detector, the surrogate. A victim that they hurt more than its own
white-box attacks do hides its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from robustdet.attacks.base import BaseAttack, require_attack
from robustdet.attacks.victim import DetectorVictim
from robustdet.types import Attack, Images, Knowledge, Targets, Victim


class Transfer(BaseAttack):
    """Runs ``attack`` on ``surrogate``, a detector of the same classes and input size; the victim is not asked.

    The surrogate is moved to where the images are.
    """

    knowledge: Knowledge = "nothing"

    def __init__(self, surrogate: nn.Module, attack: Attack) -> None:
        self._surrogate = DetectorVictim(surrogate)  # type: ignore[arg-type]
        self.surrogate = surrogate
        self.attack = require_attack(attack)
        self.threat = attack.threat

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        self.surrogate.to(images.device)
        return self.attack(self._surrogate, images, targets, generators)
