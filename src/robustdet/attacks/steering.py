"""Steering a routed detector: to the kernel that resists least, and against that kernel, both at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.adaptive import OneHot, rerouted, routing_of
from robustdet.attacks.objectives import needs_of, prepared
from robustdet.attacks.victim import require_detector
from robustdet.types import BorrowedVictim, Images, Objective, Offer, PreparedObjective


class Steering:
    """``objective`` as it would be under ``kernel`` alone + ``weight`` · log π_k: the discriminator is led there.

    A kernel that has learnt from clean images alone is an undefended detector behind a door. Under the detector's own
    routing its gradient fades as soon as the discriminator notices the attack; here it is that of the open door, and λ
    (``weight``) pays for opening it. An attack may start with a large λ and go on with smaller ones (``start`` of
    :class:`~robustdet.attacks.pgd.PGD`), so that the image is steered first and hurt then.

    Args:
        objective: what to raise, such as `Outranking`.
        kernel: k, counted from 0.
        weight: λ; log π_k is a natural logarithm, floored at float32's smallest normal number.
    """

    def __init__(self, objective: Objective | PreparedObjective, kernel: int, weight: float | int = 1.0) -> None:
        self.objective = objective
        self.kernel = kernel
        self.weight = weight

    @property
    def needs(self) -> Offer:
        """What ``objective`` asks for."""
        return needs_of(self.objective)

    @property
    def passes_over_difficult(self) -> bool:
        """Whether ``objective`` does."""
        return getattr(self.objective, "passes_over_difficult", False)

    def prepare(self, model: BorrowedVictim, clean: Images) -> Objective:
        detector = require_detector(model, "Steering")
        reference = routing_of(detector.predict(clean), "Steering")
        only = OneHot(self.kernel)
        only(detector.forward, clean, reference)  # refuses a kernel that is not there
        behind_the_door = rerouted(only, reference)
        hurt = prepared(self.objective, detector.altered(behind_the_door), clean)

        def objective(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
            detector = require_detector(model, "Steering")
            share = routing_of(detector.predict(images), "Steering")[:, self.kernel]
            opened = share.clamp(min=torch.finfo(share.dtype).tiny).log()
            return hurt(detector.altered(behind_the_door), images) + self.weight * opened

        return objective
