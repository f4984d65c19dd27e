"""Sweeps: what was gained under attack for what was lost on clean images, over loss weights of one experiment."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from robustdet.analysis.report.findings import Evaluated, Trained
from robustdet.evaluation.worst_case import WORST_CASE

SYMBOLS = {"gamma": "γ", "beta": "β"}
VALIDATED = ("val/AP50_clean", "val/AP50_attacked")  # what a training run says of itself


@dataclass(frozen=True)
class Candidate:
    """A trained detector: its loss weights, its AP in percent, and what must be known about the two numbers."""

    weights: Mapping[str, float]
    clean: float
    robust: float
    note: str


@dataclass(frozen=True)
class Point:
    """A candidate on the plot: ``label`` gives the loss weights that differ in the sweep."""

    label: str
    clean: float
    robust: float
    on_front: bool
    note: str


@dataclass(frozen=True)
class Sweep:
    experiment: str
    robust: str  # what the robust AP is
    points: list[Point]  # by clean AP


def sweeps(evaluated: Iterable[Evaluated], titles: Mapping[str, str]) -> list[Sweep]:
    """Each experiment that has checkpoints of different loss weights; all of one split, suite and protocol.

    ``titles`` are those of attacks that do not go by their own name.
    """
    experiments: dict[str, dict[str, dict[str, Evaluated]]] = defaultdict(lambda: defaultdict(dict))
    for found in evaluated:
        experiments[found.record.run.experiment][found.checkpoint][found.record.attack] = found
    made = []
    for experiment, checkpoints in experiments.items():
        complete = [by_attack for by_attack in checkpoints.values() if "clean" in by_attack and len(by_attack) > 1]
        shared = set.intersection(*(set(by_attack) for by_attack in complete)) - {"clean"} if complete else set()
        attacks = {WORST_CASE} & shared or shared
        if attacks:
            names = ", ".join(sorted(titles.get(attack, attack) for attack in attacks))
            robust = "worst case" if WORST_CASE in attacks else f"lowest of {names}"
            made += _sweep(experiment, robust, [_candidate(by_attack, attacks) for by_attack in complete])
    return made


def training_sweeps(trained: Iterable[Trained]) -> list[Sweep]:
    """The same from what training runs measured on the validation split after their last update."""
    experiments: dict[str, list[Candidate]] = defaultdict(list)
    for run in trained:
        clean, attacked = (100 * run.metrics.get(name, math.nan) for name in VALIDATED)
        if math.isfinite(clean) and math.isfinite(attacked):
            note = f"{run.updates} updates{', pruned' if run.pruned else ''}"
            experiments[run.experiment].append(Candidate(run.loss_weights, clean, attacked, note))
    robust = "under the attack that training watched"
    return [sweep for name, candidates in experiments.items() for sweep in _sweep(name, robust, candidates)]


def _candidate(by_attack: Mapping[str, Evaluated], attacks: Iterable[str]) -> Candidate:
    clean = by_attack["clean"]
    robust = min(by_attack[attack].record.map for attack in attacks)
    notes = dict.fromkeys(note for found in by_attack.values() for note in _notes(found))
    return Candidate(clean.loss_weights, 100 * clean.record.map, 100 * robust, "; ".join(notes))


def _notes(found: Evaluated) -> list[str]:
    record = found.record
    partial = [f"on {record.num_images} of {record.run.split_size} images"] if record.partial else []
    return partial + [f"{record.attack}: {flag}" for flag in record.flags]


def _sweep(experiment: str, robust: str, candidates: Sequence[Candidate]) -> list[Sweep]:
    """One sweep, or none where all loss weights are the same."""
    keys = dict.fromkeys(key for candidate in candidates for key in candidate.weights)
    differing = [key for key in keys if len({candidate.weights.get(key) for candidate in candidates}) > 1]
    if not differing:
        return []
    scores = [(candidate.clean, candidate.robust) for candidate in candidates]
    points = [
        Point(
            ", ".join(f"{SYMBOLS.get(key, key)} = {one.weights[key]:.3g}" for key in differing if key in one.weights),
            one.clean,
            one.robust,
            on_front,
            one.note,
        )
        for one, on_front in zip(candidates, front(scores), strict=True)
    ]
    return [Sweep(experiment, robust, sorted(points, key=lambda point: (point.clean, -point.robust)))]


def front(scores: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other one beats: none is as good in both coordinates and better in one."""

    def beats(other: tuple[float, float], mine: tuple[float, float]) -> bool:
        return other != mine and other[0] >= mine[0] and other[1] >= mine[1]

    return [not any(beats(other, mine) for other in scores) for mine in scores]
