"""Average precision against one setting of an attack: what Figure 7a, b and the ε-sweep have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from robustdet.analysis.figures.observation import CLEAN, Grouped, Observation, distinct, observe, scores
from robustdet.analysis.figures.study import Study
from robustdet.analysis.figures.style import caption, legend, looks, panels, styled, symbol
from robustdet.types import Attack


@dataclass(frozen=True)
class SweepPoint:
    """``map`` in [0, 1] under ``attack`` with its setting at ``value``; 0 are clean images."""

    detector: str
    attack: str
    value: float
    map: float


def sweep(
    study: Study, attacks: Mapping[str, Mapping[float, Attack]], count: int | None, title: str
) -> list[SweepPoint]:
    """``attacks`` by name and by the value of the setting that is varied; a point at 0 (clean) is added to each."""
    settings = {f"{name} {value:g}": (name, value) for name, by_value in attacks.items() for value in by_value}
    flat = {key: attacks[name][value] for key, (name, value) in settings.items()}
    rows = []
    for (detector, key), seen in Grouped(observe(study, flat, count, title), _detector_and_attack).items():
        average = scores(seen, study.metric).headline.mean
        where = [(name, 0.0) for name in attacks] if key == CLEAN else [settings[key]]
        rows += [SweepPoint(detector, name, value, average) for name, value in where]
    return sorted(rows, key=lambda row: (row.attack, row.value))  # stable: detectors keep their order


def _detector_and_attack(observation: Observation) -> tuple[str, str]:
    return observation.detector, observation.attack


def helped_by_more(rows: Iterable[SweepPoint], setting: str, tolerance: float = 0.02) -> list[str]:
    """A sentence wherever a stronger setting leaves a detector ``tolerance`` better off: the attack is too weak."""
    notes = []
    for (detector, attack), points in Grouped(rows, lambda row: (row.detector, row.attack)).items():
        worst = replace(points[0], map=1.0)
        for point in sorted(points, key=lambda p: p.value):
            if point.map > worst.map + tolerance:
                notes.append(
                    f"{detector}, {attack}: mAP {100 * point.map:.1f} at {setting} {point.value:g} but "
                    f"{100 * worst.map:.1f} at {worst.value:g}: more should never help the defender"
                )
            worst = min(worst, point, key=lambda p: p.map)
    return notes


@styled
def draw(rows: Sequence[SweepPoint], setting: str, text: str, even: bool) -> Figure:
    """A panel for each attack. ``even`` spaces the settings evenly, whatever their values."""
    attacks, labels = distinct(row.attack for row in rows), looks(distinct(row.detector for row in rows))
    values = sorted({row.value for row in rows})
    places = {value: float(index) if even else value for index, value in enumerate(values)}
    figure, axes = panels(1, len(attacks), (3.2, 2.9), sharey=True)
    for panel, attack in zip(axes[0], attacks, strict=True):
        for detector, look in labels.items():
            points = [row for row in rows if (row.attack, row.detector) == (attack, detector)]
            panel.plot(
                [places[point.value] for point in points],
                [100 * point.map for point in points],
                color=look.colour,
                linestyle=look.line,
                marker=look.marker,
            )
        panel.set_xticks(list(places.values()), [f"{value:g}" for value in values])
        panel.set_xlabel(setting)
        panel.set_title(symbol(attack))
        panel.set_ylim(0, 100)
    axes[0, 0].set_ylabel("mAP, %")
    legend(figure, labels, marker=True)
    caption(figure, text)
    return figure
