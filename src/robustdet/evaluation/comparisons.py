"""Reasons to doubt a number that show only beside other attacks of the same suite: what must not help a defender, does.

A flag stands with the number that it makes doubtful: that of the stronger attack which achieves less, or that of the
strongest white-box attack, which something weaker surpasses.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from robustdet.attacks.threat import pixel_fraction
from robustdet.evaluation.average_precision import Matched, match_detections
from robustdet.evaluation.chance import DEVIATIONS, more_than_chance, resampled_map
from robustdet.evaluation.checks import FlagName, flag, has_losses
from robustdet.evaluation.store import Outcome
from robustdet.types import Knowledge, Target

MARGIN = 0.01  # of mAP: less is no difference
LOSS_SHARE = 0.05  # of the images, in which chance may let a blind attack find the highest loss
OWN_PREDICTIONS = "OwnPredictions"  # the objective whose targets are the victim's detections
HARMLESS = 0.1  # mAP that no detector can keep when an attack may change every pixel to any value


@dataclass(frozen=True)
class Entry:
    """One attack of a suite: its settings as plain data, what it learns from its victim, its promise, its outcomes."""

    name: str
    settings: Any
    knowledge: Knowledge
    epsilon: float | None
    map: float
    outcomes: Mapping[str, Outcome]
    targets: Mapping[str, Target]
    size: float | None = None  # of its patch, if it is one: that is aimed, whatever it knows

    @cached_property
    def matched(self) -> dict[str, Matched]:
        return {
            name: match_detections(outcome.detections, self.targets[name]) for name, outcome in self.outcomes.items()
        }

    @cached_property
    def resampled(self) -> Float[np.ndarray, "R"]:
        """See :func:`~robustdet.evaluation.chance.resampled_map`."""
        return resampled_map([self.matched[name] for name in sorted(self.matched)])

    def of(self, images: Set[str]) -> Entry:
        """The same on these images alone."""
        if images == self.outcomes.keys():
            return self
        return replace(self, outcomes={name: self.outcomes[name] for name in self.outcomes.keys() & images})


Flags = Iterator[tuple[str, str]]  # the attack's name and the flag


def suite_flags(entries: Sequence[Entry], radius: float | None) -> dict[str, list[str]]:
    """Flags by the name of the attack that they belong to. ``radius`` is the ε that the suite is about."""
    flags = defaultdict(list)
    for name, raised in (
        *ladder_flags(entries),
        *blind_flags([entry for entry in entries if radius is not None and entry.epsilon == radius]),
        *unbounded_flags(entries),
        *unseen_flags(entries, radius),
        *annotation_flags(entries),
    ):
        flags[name].append(raised)
    return dict(flags)


def ladder_flags(entries: Sequence[Entry]) -> Flags:
    """Attacks that differ in one field alone. More steps and a larger ε must never help, finer steps hardly hurt."""
    rows: list[tuple[str, Callable[[Any], float], FlagName, str]] = [
        ("steps", int, "more_steps_help", "with fewer steps"),
        ("threat.epsilon", pixel_fraction, "larger_epsilon_helps", "with a smaller ε"),
    ]
    for key, read, name, how in rows:
        for ladder in ladders(entries, key, read):
            for place, entry in enumerate(ladder[1:], start=1):
                weaker = min(ladder[:place], key=lambda rung: rung.map)
                if clearly_lower(weaker, entry):
                    yield entry.name, flag(name, f"{weaker.name} leaves {gap(weaker, entry)} mAP less {how}")
    for ladder in ladders(entries, "step_size", pixel_fraction):
        for place, entry in enumerate(ladder[1:], start=1):
            finer = min(ladder[:place], key=lambda rung: rung.map)
            if clearly_lower(finer, entry):
                text = f"{finer.name} leaves {gap(finer, entry)} mAP less with finer steps"
                yield entry.name, flag("coarse_steps", text)


def blind_flags(entries: Sequence[Entry]) -> Flags:
    """Attacks in one ball: none that sees less than gradients, or knows of a discriminator, surpasses the strongest
    white-box attack.
    """
    white_box = [entry for entry in entries if entry.knowledge == "gradients"]
    if not white_box:
        return
    strongest = min(white_box, key=lambda entry: entry.map)
    for entry in entries:
        blind = entry.knowledge in ("nothing", "outputs")
        if entry.knowledge != "gradients" and clearly_lower(entry, strongest):
            less = f"{entry.name} leaves {gap(entry, strongest)} mAP less"
            yield (
                strongest.name,
                flag("beaten_by_black_box", f"{less}, without any gradient")
                if blind
                else flag("beaten_by_adaptive", f"{less}, by the discriminator"),
            )
        if blind:
            wins, images = loss_wins(entry, white_box)
            if more_than_chance(wins, images, LOSS_SHARE):
                yield (
                    strongest.name,
                    flag(
                        "loss_beaten_by_black_box",
                        f"in {wins} of {images} images with objects {entry.name} finds a higher loss than every "
                        "white-box attack",
                    ),
                )


def unseen_flags(entries: Sequence[Entry], radius: float | None) -> Flags:
    """What no ball holds and nobody aimed (JPEG, large noise) surpasses no white-box attack inside the ball."""
    white_box = [entry for entry in entries if entry.epsilon == radius and entry.knowledge == "gradients"]
    if radius is None or not white_box:
        return
    strongest = min(white_box, key=lambda entry: entry.map)
    for entry in entries:
        if (
            entry.epsilon is None
            and entry.size is None
            and entry.knowledge == "nothing"
            and clearly_lower(entry, strongest)
        ):
            text = f"{entry.name} leaves {gap(entry, strongest)} mAP less, without aiming at anything"
            yield strongest.name, flag("beaten_by_the_unseen", text)


def annotation_flags(entries: Sequence[Entry]) -> Flags:
    """Attacks that differ in what they aim at: the annotations must serve an attacker better than `OwnPredictions`."""
    for entry in entries:
        objective = entry.settings.get("objective") if isinstance(entry.settings, Mapping) else None
        if not isinstance(objective, Mapping) or not str(objective.get("_target_")).endswith(OWN_PREDICTIONS):
            continue
        plain = {**entry.settings, "objective": objective["objective"]}
        for rival in entries:
            if rival.settings == plain and clearly_lower(entry, rival):
                text = f"{entry.name} leaves {gap(entry, rival)} mAP less, without the annotations"
                yield rival.name, flag("beaten_by_own_predictions", text)


def unbounded_flags(entries: Sequence[Entry]) -> Flags:
    for entry in entries:
        if entry.epsilon == 1 and entry.knowledge == "gradients" and entry.map > HARMLESS:
            yield (
                entry.name,
                flag(
                    "survives_any_change",
                    f"{100 * entry.map:.1f} mAP are left although every pixel may take any value",
                ),
            )


def ladders(entries: Sequence[Entry], key: str, read: Callable[[Any], float]) -> list[list[Entry]]:
    """Groups of two attacks or more whose settings differ in nothing but ``key`` (dotted), in its order."""
    groups: dict[str, list[tuple[float, Entry]]] = defaultdict(list)
    for entry in entries:
        fields = _flat(entry.settings)
        if key in fields:
            value = read(fields.pop(key))
            groups[json.dumps(fields, sort_keys=True, default=str)].append((value, entry))
    found = [[entry for _, entry in sorted(group, key=lambda pair: pair[0])] for group in groups.values()]
    return [ladder for ladder in found if len(ladder) > 1]


def clearly_lower(a: Entry, b: Entry) -> bool:
    """Whether ``a`` leaves less than ``b`` by more than `MARGIN`, and not by the chance of these images.

    Chance is judged by the bootstrap: on the images that both have, the difference of mAP (area rule) exceeds
    `DEVIATIONS` times its standard deviation over resamples of these images.
    """
    shared = a.outcomes.keys() & b.outcomes.keys()
    if b.map - a.map <= MARGIN or len(shared) < 2:
        return False
    differences = b.of(shared).resampled - a.of(shared).resampled
    return bool(differences[0] > DEVIATIONS * np.nanstd(differences[1:]))


def loss_wins(entry: Entry, rivals: Sequence[Entry]) -> tuple[int, int]:
    """In how many images with objects ``entry`` finds a higher whole loss than each of ``rivals``, and of how many.

    An image that no rival has is left out.
    """
    wins = []
    for name, outcome in entry.outcomes.items():
        others = [_loss(rival.outcomes[name]) for rival in rivals if name in rival.outcomes and has_losses(outcome)]
        if others and outcome.measures["positives"] > 0:
            wins.append(_loss(outcome) > max(others))
    return sum(wins), len(wins)


def gap(a: Entry, b: Entry) -> str:
    """How much less ``a`` leaves than ``b``, in percentage points."""
    return f"{100 * (b.map - a.map):.1f}"


def _loss(outcome: Outcome) -> float:
    loss = outcome.measures["classification"] + outcome.measures["localization"]
    return loss if math.isfinite(loss) else -math.inf


def _flat(settings: Any, path: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys."""
    if not isinstance(settings, Mapping):
        return {path: settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{path}.{key}" if path else str(key))
    return flat
