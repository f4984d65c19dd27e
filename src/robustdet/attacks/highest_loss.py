"""An attack made of attacks: every image gets the one that raises its loss most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from robustdet.attacks.base import BaseAttack, require_attack
from robustdet.attacks.objectives import comparable, needs_of, prepared, total
from robustdet.attacks.threat import check_images
from robustdet.errors import InputError
from robustdet.types import (
    Attack,
    Images,
    Knowledge,
    Objective,
    Offer,
    PreparedObjective,
    Targets,
    Threat,
    Victim,
    most,
)


class HighestLoss(BaseAttack):
    """Runs each of ``attacks`` and keeps, image by image, the result of the largest ``objective``, the whole loss.

    What is compared is the victim as it is, whatever the attacks ascended. Where none raises the objective the image
    stays clean. It knows what the most knowing of its attacks does.
    """

    objective: Objective | PreparedObjective

    def __init__(self, attacks: Mapping[str, Attack], objective: Objective | PreparedObjective = total) -> None:
        self.attacks = {name: require_attack(attack) for name, attack in attacks.items()}
        self.objective = objective
        self.threat = _shared_threat(self.attacks)
        self.knowledge = max((attack.knowledge for attack in self.attacks.values()), key=get_args(Knowledge).index)

    @property
    def needs(self) -> Offer:
        return most(needs_of(self.objective), *(attack.needs for attack in self.attacks.values()))

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        candidates = [images, *(attack(victim, images, targets, generators) for attack in self.attacks.values())]
        with victim.borrow(targets) as model, torch.no_grad():
            objective = prepared(self.objective, model, images)
            values = torch.stack([objective(model, candidate) for candidate in candidates])
        highest = comparable(values).argmax(dim=0)  # of equal ones the first: the clean image
        return torch.stack(candidates)[highest, torch.arange(len(images), device=images.device)]


def _shared_threat(attacks: Mapping[str, Attack]) -> Threat:
    """The ball that all attacks stay in. Raises ValueError naming them when they have none, or different ones."""
    radii = {name: attack.threat.epsilon for name, attack in attacks.items()}
    if len(set(radii.values())) != 1 or None in radii.values():
        raise InputError(f"the highest loss is taken over attacks inside one ball, got ε of {radii}")
    return next(attack.threat for attack in attacks.values())
