"""Sweeps: what was gained under attack for what was lost on clean images, over loss weights of one experiment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from robustdet.analysis.report.findings import Evaluated
from robustdet.evaluation.worst_case import WORST_CASE

SYMBOLS = {"gamma": "γ", "beta": "β"}


@dataclass(frozen=True)
class Point:
    """One checkpoint: its loss weights that differ in the sweep, and its AP in percent."""

    label: str
    clean: float
    robust: float
    on_front: bool
    note: str  # "" or what must be known about the two numbers


@dataclass(frozen=True)
class Sweep:
    experiment: str
    robust: str  # what the robust AP is
    points: list[Point]  # by clean AP


def sweeps(evaluated: Sequence[Evaluated]) -> list[Sweep]:
    """Each experiment that has checkpoints of different loss weights; all of one split, suite and protocol."""
    checkpoints: dict[str, dict[str, dict[str, Evaluated]]] = defaultdict(lambda: defaultdict(dict))
    for found in evaluated:
        checkpoints[found.record.run.experiment][found.checkpoint][found.record.attack] = found
    made = [_sweep(name, list(of.values())) for name, of in checkpoints.items()]
    return [sweep for sweep in made if sweep is not None]


def _sweep(experiment: str, checkpoints: list[dict[str, Evaluated]]) -> Sweep | None:
    complete = [by_attack for by_attack in checkpoints if "clean" in by_attack and len(by_attack) > 1]
    weights = [next(iter(by_attack.values())).loss_weights for by_attack in complete]
    differing = [key for key in (weights[0] if weights else {}) if len({w.get(key) for w in weights}) > 1]
    if not differing:
        return None
    shared = set.intersection(*(set(by_attack) for by_attack in complete)) - {"clean"}
    if not shared:
        return None
    attacks = {WORST_CASE} if WORST_CASE in shared else shared
    scores = [
        (100 * by_attack["clean"].record.map, min(100 * by_attack[attack].record.map for attack in attacks))
        for by_attack in complete
    ]
    points = [
        Point(
            ", ".join(f"{SYMBOLS.get(key, key)} = {w[key]:g}" for key in differing if key in w),
            *score,
            on_front,
            "; ".join(dict.fromkeys(note for found in by_attack.values() for note in _notes(found))),
        )
        for w, score, on_front, by_attack in zip(weights, scores, front(scores), complete, strict=True)
    ]
    robust = "worst case" if attacks == {WORST_CASE} else f"lowest of {', '.join(sorted(attacks))}"
    return Sweep(experiment, robust, sorted(points, key=lambda point: point.clean))


def front(scores: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other one beats: none is as good in both coordinates and better in one."""
    return [not any(all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine for other in scores)
            for mine in scores]  # fmt: skip


def _notes(found: Evaluated) -> list[str]:
    record = found.record
    partial = [f"on {record.num_images} of {record.run.split_size} images"] if record.partial else []
    return partial + [f"{record.attack}: {flag}" for flag in record.flags]
