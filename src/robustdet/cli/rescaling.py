"""`suite.epsilon=4/255`: the suite at another size of its L∞ ball, its steps in proportion; under a name of its own."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robustdet.attacks.threat import LInf, pixel_fraction, ratio
from robustdet.cli.ladder import in_levels
from robustdet.errors import InputError

LENGTHS = ("step_size", "first_step", "gamma")  # what attacks call the lengths of their steps
BALL = f"{LInf.__module__}.{LInf.__qualname__}", "robustdet.attacks.LInf"
NAME = re.compile(r"(?P<suite>.+)_eps_(?P<levels>[0-9_]+)")


def rescaled(suite: DictConfig) -> DictConfig:
    """The suite with every L∞ ball of size ``epsilon`` and lengths of steps in proportion; as it is where that is null.

    Its name gets an ending, paper_eps_4 at 4/255, so that no number at one ε passes for one at another. Attacks that
    no such ball bounds stay as they are. Raises InputError where ``epsilon`` is 0 or no fraction of the pixel range,
    and for a suite whose attacks are named by their sizes: a ladder of steps, a sweep of ε.
    """
    epsilon = suite.get("epsilon")
    if epsilon is None:
        return suite
    try:
        size = ratio(epsilon) if pixel_fraction(epsilon) else None
    except InputError as error:
        raise InputError(f"suite.epsilon: {error}") from error
    if size is None:
        raise InputError(f"suite.epsilon={epsilon}: expected a size above 0, such as 4/255")
    if suite.get("ladder") is not None:
        raise InputError(f"suite.epsilon={epsilon}: suite={suite.name} has a ladder of step sizes, named by them")
    fields: dict[str, Any] = OmegaConf.to_container(suite, resolve=True)  # type: ignore[assignment]
    attacks = fields["attacks"] | (fields.get("otherwise") or {})
    sizes = sorted({found for attack in attacks.values() for found in balls(attack) if found})
    if len(sizes) > 1:
        several = ", ".join(in_255ths(one) for one in sizes)
        raise InputError(f"suite.epsilon={epsilon}: suite={suite.name} has balls of several sizes: {several}")
    fields |= {"epsilon": None, "name": f"{fields['name']}_eps_{in_levels(in_255ths(size))}"}
    for group in {"attacks", "otherwise"} & fields.keys():
        fields[group] = {name: _scaled(attack, size, None) for name, attack in (fields[group] or {}).items()}
    return OmegaConf.create(fields)


def in_ball(attack: DictConfig, epsilon: float | int | str, name: str) -> DictConfig:
    """The fields of one attack with its L∞ ball of size ``epsilon`` and lengths of steps in proportion.

    Raises InputError for a size that is none, and for an attack that no such ball bounds.
    """
    fields: dict[str, Any] = OmegaConf.to_container(attack, resolve=True)  # type: ignore[assignment]
    if not pixel_fraction(epsilon):
        raise InputError(f"epsilon={epsilon}: expected a size above 0, such as 4/255")
    if not balls(fields):
        raise InputError(f"epsilon={epsilon}: no L∞ ball bounds {name}")
    return OmegaConf.create(_scaled(fields, ratio(epsilon), None))


def unbounded(suite: DictConfig) -> list[str]:
    """Names of the attacks that no L∞ ball bounds."""
    attacks: dict[str, Any] = OmegaConf.to_container(suite.attacks, resolve=True)  # type: ignore[assignment]
    return [name for name, attack in attacks.items() if attack is not None and not balls(attack)]


def balls(node: Any) -> list[Fraction]:
    """Sizes of all L∞ balls in an attack's fields."""
    if isinstance(node, list):
        return [found for item in node for found in balls(item)]
    if not isinstance(node, dict):
        return []
    own = [ratio(node["epsilon"])] if node.get("_target_") in BALL else []
    return own + [found for value in node.values() for found in balls(value)]


def named(suite: str) -> tuple[str, str | None]:
    """The suite and the ``epsilon`` that a name stands for: paper_eps_4 → ("paper", "4/255"), paper → (paper, None)."""
    found = NAME.fullmatch(suite)
    return (found["suite"], f"{found['levels'].replace('_', '.')}/255") if found else (suite, None)


def in_255ths(size: Fraction) -> str:
    """As yamls write it: "4/255", "0.5/255"."""
    return f"{float(size * 255):g}/255"


def _scaled(node: Any, epsilon: Fraction, scale: Fraction | None) -> Any:
    """``scale``: of the new size of the ball around it to the old; None outside of any."""
    if isinstance(node, list):
        return [_scaled(item, epsilon, scale) for item in node]
    if not isinstance(node, dict):
        return node
    threat = node.get("threat")
    if isinstance(threat, dict) and "_target_" in threat:
        within = threat["_target_"] in BALL and ratio(threat["epsilon"]) > 0
        scale = epsilon / ratio(threat["epsilon"]) if within else None
    scaled = {key: _scaled(value, epsilon, scale) for key, value in node.items()}
    if scale is not None:
        if node.get("_target_") in BALL:
            scaled["epsilon"] = in_255ths(epsilon)
        for key in LENGTHS:
            if isinstance(node.get(key), str | int | float) and not isinstance(node.get(key), bool):
                scaled[key] = in_255ths(ratio(node[key]) * scale)
    return scaled
