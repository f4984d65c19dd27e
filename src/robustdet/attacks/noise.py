"""Random noise: the floor under every attack. A model that noise hurts as much as an attack hides its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from robustdet.attacks.base import BaseAttack
from robustdet.attacks.threat import L2, LInf, PixelFraction, PixelRange, check_images, pixel_fraction
from robustdet.errors import InputError
from robustdet.types import Images, Knowledge, Targets, Victim


class Noise(BaseAttack):
    """Drawn uniformly from the ball; or, of an L∞ ball, each value moved by +ε or -ε (``sign``).

    The victim is not asked.
    """

    knowledge: Knowledge = "nothing"

    def __init__(self, threat: LInf | L2, distribution: Literal["uniform", "sign"] = "uniform") -> None:
        draws = {"uniform": threat.uniform}
        if isinstance(threat, LInf):
            draws["sign"] = threat.corner
        if distribution not in draws:
            expected = f"expected a distribution out of {sorted(draws)} in {type(threat).__name__}"
            raise InputError(f"{expected}, got {distribution!r}")
        self.threat = threat
        self._draw = draws[distribution]

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        return self._draw(images, generators)


class GaussianNoise(BaseAttack):
    """Normal noise on every value, cut to the pixel range: no ball holds it. The victim is not asked.

    Its ``standard_deviation`` is a fraction of the pixel range such as "8/255".
    """

    knowledge: Knowledge = "nothing"
    threat = PixelRange()

    def __init__(self, standard_deviation: PixelFraction) -> None:
        self.standard_deviation = pixel_fraction(standard_deviation)

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        noise = [torch.randn(image.shape, generator=g) for image, g in zip(images, generators, strict=True)]
        return self.threat.project(images + self.standard_deviation * torch.stack(noise).to(images), images)
