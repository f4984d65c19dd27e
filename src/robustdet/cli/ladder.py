"""`suite.ladder`: one idea, every objective × step size × start, as the attacks that it stands for."""

from __future__ import annotations

import copy
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robustdet.errors import InputError

SIZES = ("step_size", "gamma")  # what attacks call the length of a step


def without_ladder(suite: DictConfig) -> DictConfig:
    """The suite with an attack for each rung of its ladder, behind its clean images; as it is where it has none.

    Each of ``ladder.attacks`` climbs from the clean image in each of ``step_sizes`` (NAME_8, NAME_0_5, …: in 1/255),
    and from what each of ``starts`` makes (NAME_random, …) in ``step_size_elsewhere``. An attack around another one
    (`Adaptive`) hands this on to it. An attack of the suite with a rung's name counts for more; what a suite has under
    two names is run once, under the first. Raises ValueError for an attack without a step size.
    """
    if suite.get("ladder") is None:
        return suite
    fields: dict[str, Any] = OmegaConf.to_container(suite, resolve=True)  # type: ignore[assignment]
    ladder = fields.pop("ladder")
    rungs: dict[str, Any] = {"clean": None}
    for name, attack in ladder["attacks"].items():
        for size in ladder["step_sizes"]:
            rungs[f"{name}_{in_levels(size)}"] = rung(name, attack, ladder["steps"], size, None)
        for place, start in ladder["starts"].items():
            rungs[f"{name}_{place}"] = rung(name, attack, ladder["steps"], ladder["step_size_elsewhere"], start)
    once: dict[str, Any] = {}
    for name, attack in (rungs | fields["attacks"]).items():
        if attack is None or attack not in once.values():
            once[name] = attack
    return OmegaConf.create({**fields, "attacks": once})


def rung(name: str, attack: dict[str, Any], steps: int, size: str, start: dict[str, Any] | None) -> dict[str, Any]:
    """The fields of this attack with other steps and another start."""
    fields = copy.deepcopy(attack)
    climb = fields.get("attack", fields)
    length = next((key for key in SIZES if key in climb), None)
    if length is None:
        raise InputError(f"suite.ladder.attacks.{name} has no step size: it needs {' or '.join(SIZES)}")
    climb |= {"steps": steps, length: size}
    if "random_start" in climb:
        climb["random_start"] = False
    if start is not None:
        climb["start"] = start
    return fields


def in_levels(size: str | float) -> str:
    """A step size in 1/255, as part of a name: "0.5/255" → "0_5"."""
    return str(size).removesuffix("/255").replace(".", "_")
