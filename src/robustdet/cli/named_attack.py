"""An attack by its name in `conf/attack`, for those who call the package instead of its commands."""

from __future__ import annotations

from collections.abc import Sequence

from robustdet.cli.composition import composed
from robustdet.cli.instantiating import instantiate
from robustdet.cli.rescaling import in_ball
from robustdet.types import Attack


def named_attack(name: str, overrides: Sequence[str], epsilon: float | int | str | None) -> Attack:
    """``overrides`` are those of a command, "attack.steps=5"; ``epsilon`` resizes its ball, and its steps with it."""
    fields = composed("predict", [f"attack={name}", *overrides]).attack
    return instantiate(fields if epsilon is None else in_ball(fields, epsilon, name))
