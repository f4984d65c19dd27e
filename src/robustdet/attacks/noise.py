"""Random noise: the floor under every attack. A model that noise hurts as much as an attack hides its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from robustdet.attacks.base import BaseAttack
from robustdet.attacks.threat import LInf, check_images
from robustdet.types import Images, Knowledge, Targets, Victim


class Noise(BaseAttack):
    """Each value is drawn uniformly from the ball, or moved by +ε or -ε (``sign``); the victim is not asked."""

    knowledge: Knowledge = "nothing"

    def __init__(self, threat: LInf, distribution: Literal["uniform", "sign"] = "uniform") -> None:
        draws = {"uniform": threat.uniform, "sign": threat.corner}
        if distribution not in draws:
            raise ValueError(f"expected a distribution out of {sorted(draws)}, got {distribution!r}")
        self.threat = threat
        self._draw = draws[distribution]

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        return self._draw(images, generators)
