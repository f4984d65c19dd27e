"""An attack made of attacks: every image gets the one that hurts it most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from robustdet.attacks.objectives import Objective, total
from robustdet.attacks.sight import SIGHT, what_it_sees
from robustdet.attacks.threat import LInf, check_images
from robustdet.types import Attack, Images, Targets, Victim


class WorstCase:
    """Runs each of ``attacks`` and keeps, image by image, the result of the largest ``objective``, the whole loss.

    What is compared is the victim as it is, whatever the attacks ascended. Where none raises the objective the image
    stays clean.
    """

    def __init__(self, attacks: Mapping[str, Attack], objective: Objective = total) -> None:
        self.attacks = dict(attacks)
        self.objective = objective
        self.threat = _shared_threat(self.attacks)

    @property
    def sees(self) -> str:
        """What the most knowing of its attacks does."""
        seen = {what_it_sees(attack) for attack in self.attacks.values()}
        return max(seen, key=SIGHT.index)

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        candidates = [images, *(attack(victim, images, targets, generators) for attack in self.attacks.values())]
        with victim.borrow(targets) as model, torch.no_grad():
            values = torch.stack([self.objective(model, candidate) for candidate in candidates])
        worst = values.nan_to_num(nan=-torch.inf).argmax(dim=0)  # of equal ones the first: the clean image
        return torch.stack(candidates)[worst, torch.arange(len(images), device=images.device)]


def _shared_threat(attacks: Mapping[str, Attack]) -> LInf:
    """The ball that all attacks stay in. Raises ValueError naming them when they have none, or different ones."""
    threats = {name: getattr(attack, "threat", None) for name, attack in attacks.items()}
    radii = {name: getattr(threat, "epsilon", None) for name, threat in threats.items()}
    if len(set(radii.values())) != 1 or None in radii.values():
        raise ValueError(f"the worst case is taken over attacks inside one ball, got ε of {radii}")
    return next(iter(threats.values()))  # type: ignore[return-value]
