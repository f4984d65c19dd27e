"""Climbs of an objective from several starts, of which each image keeps its highest point; a subclass says how."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.base import BaseAttack, require_attack, require_count
from robustdet.attacks.objectives import comparable, prepared
from robustdet.attacks.threat import LInf, check_images
from robustdet.attacks.victim import input_gradient
from robustdet.errors import InputError
from robustdet.types import Attack, BorrowedVictim, Images, Objective, Offer, PreparedObjective, Targets, Victim, most

STARTS = ("clean", "random", "best")


class Ascent(BaseAttack):
    """From each of ``starts`` in turn it takes ``steps`` steps, as :meth:`climb` does.

    A start is the clean image, a random one in ``threat``, each image's best so far, or what an attack makes. The
    result is each image's highest point over all iterates of all climbs and the clean image: no climb, and no attack,
    lowers an objective. Where nothing raises it the image stays clean.
    """

    objective: Objective | PreparedObjective
    threat: LInf

    def __init__(
        self,
        objective: Objective | PreparedObjective,
        threat: LInf,
        steps: int,
        starts: Sequence[str | Attack],
    ) -> None:
        if not starts or any(isinstance(start, str) and start not in STARTS for start in starts):
            raise InputError(f"expected one start or more out of {', '.join(STARTS)} or an attack, got {list(starts)}")
        self.objective = objective
        self.threat = threat
        self.steps = require_count("steps", steps)
        self.starts = tuple(start if isinstance(start, str) else require_attack(start) for start in starts)

    @property
    def needs(self) -> Offer:
        return most(super().needs, *(start.needs for start in self.starts if not isinstance(start, str)))

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        if images.requires_grad:  # else the same tensor, which has been looked at
            images = images.detach()
        with victim.borrow(targets) as model:
            best = images.clone()
            objective = prepared(self.objective, model, images)
            with torch.no_grad():
                value = comparable(objective(model, best))
            for kind in self.starts:
                if isinstance(kind, str):
                    start = {"clean": images, "best": best}.get(kind)
                    start = self.threat.uniform(images, generators) if start is None else start
                else:
                    start = self.threat.project(kind(victim, images, targets, generators), images)
                peak = self.climb(objective, model, start, images)
                best = torch.where(per_image(peak.value > value), peak.images, best)
                value = torch.maximum(value, peak.value)
        return best

    @abstractmethod
    def climb(self, objective: Objective, model: BorrowedVictim, start: Images, clean: Images) -> Peak:
        """The highest point that one run from ``start`` meets on its way, within ``threat`` around ``clean``."""


class Peak:
    """Each image's highest point so far, with its objective and gradient."""

    def __init__(self, images: Images, value: Float[Tensor, "B"], gradient: Images) -> None:
        self.images, self.value, self.gradient = images, value, gradient

    def rise(self, images: Images, value: Float[Tensor, "B"], gradient: Images) -> None:
        higher = value > self.value
        self.images = torch.where(per_image(higher), images, self.images)
        self.gradient = torch.where(per_image(higher), gradient, self.gradient)
        self.value = torch.where(higher, value, self.value)


def value_and_gradient(
    objective: Objective, model: BorrowedVictim, images: Images
) -> tuple[Float[Tensor, "B"], Images]:
    """Each image's value, and its gradient to the image, without a graph; where it is no number, -inf and 0."""
    images = images.detach().requires_grad_()
    value = objective(model, images)
    return comparable(value.detach()), input_gradient(value, images).nan_to_num(nan=0.0)


def per_image(values: Tensor) -> Tensor:
    """One value for each image, to be applied to all its pixels."""
    return values.view(-1, 1, 1, 1)
