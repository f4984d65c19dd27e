"""The worst case over a suite: per image the attack that hurts it most, chosen from what is stored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from statistics import mode

from robustdet.evaluation.average_precision import owners, pooled_average_precision
from robustdet.evaluation.store import Outcome
from robustdet.types import Target

WORST_CASE = "worst_case"


def shared_radius(epsilons: Mapping[str, float | None]) -> float | None:
    """The ε that most attacks promise, the threat that a suite is about; None when none promises any."""
    promised = [epsilon for epsilon in epsilons.values() if epsilon is not None]
    return mode(promised) if promised else None


def inside(epsilons: Mapping[str, float | None], radius: float) -> list[str]:
    """The attacks that promise to stay within ``radius``."""
    return [name for name, epsilon in epsilons.items() if epsilon is not None and epsilon <= radius]


def worst_outcomes(
    outcomes: Mapping[str, Mapping[str, Outcome]], targets: Mapping[str, Target]
) -> tuple[dict[str, Outcome], dict[str, int]]:
    """Per image the outcome that hurts most, and how many images each attack was chosen for.

    ``outcomes`` by attack and image id; images that an attack lacks are left out. The time of an image is that of all
    its attacks together.
    """
    shared = set.intersection(*(set(of_attack) for of_attack in outcomes.values()))
    worst, chosen = {}, Counter(dict.fromkeys(outcomes, 0))
    for image_id in sorted(shared):
        rivals = {name: of_attack[image_id] for name, of_attack in outcomes.items()}
        name = max(rivals, key=lambda rival: harm(rivals[rival], targets[image_id]))
        seconds = math.fsum(rival.measures["seconds"] for rival in rivals.values())
        worst[image_id] = replace(rivals[name], measures=rivals[name].measures | {"seconds": seconds})
        chosen[name] += 1
    return worst, dict(chosen)


def harm(outcome: Outcome, target: Target) -> tuple[float, float, float]:
    """How much an attack hurt this image; compare as tuples.

    First what AP looks at: 1 - the image's own AP, classes pooled. Where that does not tell attacks apart (mostly
    because all objects are lost, or none is there), the detections that are wrong hurt the AP of other images by
    ranking above their objects, so next comes the sum of their scores; then the whole loss, if it is a number.
    """
    found = outcome.detections
    wrong = float(found.scores.cpu().double().numpy()[owners(found, target) < 0].sum())
    loss = outcome.measures["classification"] + outcome.measures["localization"]
    return (
        round(1 - pooled_average_precision(found, target), 9),
        wrong,
        loss if math.isfinite(loss) else -math.inf,
    )
