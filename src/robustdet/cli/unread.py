"""Overrides of a training that do not what somebody expects of them.

What nothing reads is refused: a sweep over it would train the same thing several times.

Parts that only a training's method reads are `loss`, `attack` and `schedule`, some of them through each other. What an
experiment's yaml says of them is its own business, as is the choice of a whole part (``attack=mtd``).
"""

from __future__ import annotations

from collections.abc import Iterable

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robustdet.attacks.threat import ratio
from robustdet.cli.composition import without_place
from robustdet.defences.robustdet import LossWeights
from robustdet.defences.schedules import Replay
from robustdet.errors import InputError

PARTS = ("loss", "attack", "schedule")
EPSILON = "attack.threat.epsilon"
SIZES = {EPSILON, "attack.step_size", "schedule.step_sizes"}
OF_CFR = ("loss.b", "loss.c")
OF_WHOLE_ATTACKS = ("attack.steps", "attack.step_size", "attack.random_start")  # Replay takes single steps


def require_read(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Raises InputError for the first of the command line's ``overrides`` that is of no consequence, saying why."""
    given = _of_parts(overrides)
    if not given:
        return
    plain = without_place(cfg)
    method = str(cfg.method._target_).rpartition(".")[2]
    for key, override in given.items():
        if not _is_read(plain, key):
            raise InputError(
                f"{override}: nothing reads this, for the method is {method} and asks for no {key.partition('.')[0]}: "
                "leave it out, or choose another experiment=… or method=…"
            )
        if key in OF_CFR and _is(cfg.loss, LossWeights) and OmegaConf.select(cfg, "model.cfr") is None:
            raise InputError(
                f"{override}: nothing reads this, for only CFR has L_re and L_kld, and with this {method} model.cfr is "
                "null: leave it out (a search: hparams_search=loss_weights_without_cfr), or choose an experiment=…_cfr"
            )


def passed_over(cfg: DictConfig, overrides: Iterable[str]) -> str:
    """What to say of ``overrides`` that only whole attacks know, where the attack is replayed; else nothing."""
    unread = [key for key in _of_parts(overrides) if key in OF_WHOLE_ATTACKS]
    if not unread or not _is(cfg.schedule, Replay):
        return ""
    return (
        f"{', '.join(unread)}: not used in training, for Replay begins at clean images and takes its steps from "
        "schedule.step_sizes and schedule.updates_per_source (schedule=full makes whole attacks)"
    )


def unscaled(cfg: DictConfig, overrides: Iterable[str]) -> str:
    """What to say where the command line gives the size of the ball alone, and other sizes keep theirs; or nothing."""
    if EPSILON not in _of_parts(overrides):
        return ""
    said, epsilon = [], ratio(OmegaConf.select(cfg, EPSILON))
    largest = max(cfg.schedule.get("step_sizes") or [0.0], key=ratio)
    if ratio(largest) > epsilon:
        said.append(f"schedule.step_sizes go up to {largest}")
    watched = OmegaConf.select(cfg, f"validation.{EPSILON}")
    if watched is not None and ratio(watched) != epsilon:
        said.append(f"the attack that is watched has validation.{EPSILON}={watched}")
    return f"{EPSILON}={OmegaConf.select(cfg, EPSILON)} scales nothing else: {', '.join(said)}" if said else ""


def _of_parts(overrides: Iterable[str]) -> dict[str, str]:
    """The overrides of single values below a part, by key."""
    found = {override.lstrip("+").partition("=")[0]: override for override in overrides}
    return {key: found[key] for key in found if key.startswith(tuple(f"{part}." for part in PARTS)) and "@" not in key}


def _is_read(cfg: DictConfig, key: str) -> bool:
    """Whether anything outside of the parts is another one where ``key`` is another value."""
    other = cfg.copy()
    OmegaConf.update(other, key, "another value")
    try:
        return _elsewhere(other) != _elsewhere(cfg)
    except OmegaConfBaseException:  # somebody reads what was below it
        return True


def _elsewhere(cfg: DictConfig) -> dict[str, object]:
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in PARTS}


def _is(node: DictConfig | None, cls: type) -> bool:
    return node is not None and node.get("_target_") == f"{cls.__module__}.{cls.__qualname__}"
