"""ε that grows while a detector learns: a small network on photographs hardly learns from a full attack at once."""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

from robustdet.attacks.threat import LInf
from robustdet.errors import InputError
from robustdet.types import Attack

OneAttack = TypeVar("OneAttack", bound=Attack)


class EpsilonWarmup:
    """The attack of each update of a training: ε grows linearly from 0 and has its value at update ``updates``.

    Update t (from 1) is attacked within ε · min(1, t / ``updates``); 0 updates: no warm-up. Step sizes stay. Raises
    InputError for an attack without an L∞ ball.
    """

    def __init__(self, attack: Attack, updates: int) -> None:
        if updates < 0:
            raise InputError(f"epsilon_warmup is {updates}, expected a number of updates, 0 or more")
        if updates and not isinstance(attack.threat, LInf):
            raise InputError(
                f"epsilon_warmup={updates} is for an L∞ ball, and {type(attack).__name__} has a "
                f"{type(attack.threat).__name__}: set it to 0"
            )
        self.updates = updates

    def within(self, attack: OneAttack, update: int) -> OneAttack:
        """``attack``, or its like in the smaller ball of this update (counted from 1)."""
        if update >= self.updates or not isinstance(attack.threat, LInf):
            return attack
        smaller: Any = copy.copy(attack)
        smaller.threat = LInf(attack.threat.epsilon * update / self.updates)
        return cast(OneAttack, smaller)
