"""What every attack declares, with the usual answers, and the door where one that does not is refused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any, cast, get_args

import torch

from robustdet.attacks.objectives import needs_of
from robustdet.errors import InputError, KindError
from robustdet.types import (
    Attack,
    Images,
    Knowledge,
    Objective,
    Offer,
    PreparedObjective,
    StepwiseAttack,
    Targets,
    Threat,
    Victim,
    most,
)

EXPECTED = {
    "threat": "where its images lie: LInf(ε), or PixelRange() where it promises no ball",
    "knowledge": f"one of {', '.join(get_args(Knowledge))}",
    "needs": f"of its victim: one of {', '.join(get_args(Offer))}",
    "objective": "what it climbs, a function of a borrowed victim and images, or None",
    "objective_bound": "the largest value that its objective can take, or None",
}


class BaseAttack(ABC):
    """White box, without an objective that is known; a subclass says its ``threat``, and what is not as here."""

    threat: Threat
    knowledge: Knowledge = "gradients"
    objective: Objective | PreparedObjective | None = None
    objective_bound: float | None = None

    @property
    def needs(self) -> Offer:
        """What its objective asks for; whatever follows gradients needs losses at least."""
        if self.knowledge == "nothing":
            return "detections"
        asked = needs_of(self.objective)
        return asked if self.knowledge == "outputs" else most("losses", asked)

    @abstractmethod
    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images: ...

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Raises TypeError for a new ``__call__`` with an inherited ``step``: `replay` would train on the parent."""
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls) and "step" not in vars(cls) and hasattr(cls, "step"):
            raise KindError(
                f"{cls.__name__} has a __call__ of its own but its parent's step, which `replay` would train on: "
                "define step too or, where it remembers something from step to step, derive from BaseAttack"
            )


def require_attack(attack: Any) -> Attack:
    """``attack``, when it declares all that an evaluation reads of an attack.

    Raises:
        TypeError: it does not; the message names its class, what is missing or wrong, and what was expected.
    """
    name = type(attack).__name__
    missing = [field for field in EXPECTED if not hasattr(attack, field)]
    if not callable(attack) or missing:
        lacks = "; ".join(f"{field} ({EXPECTED[field]})" for field in missing) or "__call__"
        raise KindError(f"{name} is no attack: it lacks {lacks}. robustdet.attacks.BaseAttack has defaults")
    if not isinstance(attack.threat, Threat):
        raise KindError(f"{name}.threat is {attack.threat!r}; expected {EXPECTED['threat']}")
    if attack.knowledge not in get_args(Knowledge):
        raise KindError(f"{name}.knowledge is {attack.knowledge!r}; expected {EXPECTED['knowledge']}")
    if attack.needs not in get_args(Offer):
        raise KindError(f"{name}.needs is {attack.needs!r}; expected {EXPECTED['needs']}")
    if attack.objective is not None and not isinstance(attack.objective, Objective | PreparedObjective):
        raise KindError(f"{name}.objective is {attack.objective!r}; expected {EXPECTED['objective']}")
    return cast(Attack, attack)


def require_stepwise(attack: Any, user: str) -> StepwiseAttack:
    """``attack``, when it can be asked for a single step by ``user``.

    Raises:
        TypeError: it cannot; the message names both.
    """
    if not hasattr(require_attack(attack), "step"):
        raise KindError(
            f"{user} asks its attack for single steps, and {type(attack).__name__} is more than a step repeated: it "
            "has no `step`. Train on it with schedule=full, or take one that steps, such as PGD or MTD"
        )
    return cast(StepwiseAttack, attack)


def require_count(name: str, value: Any) -> int:
    """``value``, a number of steps or queries. Raises InputError where it is not a whole number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise InputError(f"expected a whole number of 0 or more, got {name}={value!r}")
    return int(value)
