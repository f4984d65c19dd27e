"""Figure 7c: how confident a detector is in its boxes, on clean images and under attack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustdet.analysis.figures.observation import Grouped, Observation, distinct, observe
from robustdet.analysis.figures.study import Findings, Study
from robustdet.analysis.figures.style import Look, caption, legend, looks, panels, styled, symbol
from robustdet.analysis.pictures import correct
from robustdet.errors import InputError
from robustdet.types import Attack

BINS = 10


@dataclass(frozen=True)
class BoxConfidence:
    """One detection; ``right`` when it is the best one of an object of its class, by an IoU of 0.5."""

    detector: str
    attack: str
    image: str
    score: float
    right: bool


class Confidence:
    """Boxes with a score above ``threshold`` in the first ``num_images`` images (None: all)."""

    def __init__(self, attacks: Mapping[str, Attack], threshold: float, num_images: int | None) -> None:
        self.attacks = attacks
        self.threshold = threshold
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        observations = observe(study, self.attacks, self.num_images, "confidence")
        rows = confidences(observations, self.threshold)
        if not rows:
            raise InputError(f"no detector has a box with a score above {self.threshold:g}: lower analysis.threshold")
        figure = draw(rows, self.threshold, study.caption(self.num_images))
        notes = [
            f"{detector}, {attack}: {len(boxes)} boxes, median score {np.median([box.score for box in boxes]):.2f}, "
            f"{100 * np.mean([box.right for box in boxes]):.0f} % right"
            for (detector, attack), boxes in Grouped(rows, lambda row: (row.detector, row.attack)).items()
        ]
        return Findings(figure, BoxConfidence, rows, notes)


def confidences(observations: Iterable[Observation], threshold: float) -> list[BoxConfidence]:
    """Every box above the threshold."""
    return [
        BoxConfidence(seen.detector, seen.attack, seen.target.image_id, float(score), bool(right))
        for seen in observations
        for score, right in zip(seen.detections.scores, correct(seen.detections, seen.target)[0], strict=True)
        if score > threshold
    ]


@styled
def draw(rows: Sequence[BoxConfidence], threshold: float, text: str) -> Figure:
    """A panel for clean images and one for each attack."""
    attacks, labels = distinct(row.attack for row in rows), looks(distinct(row.detector for row in rows))
    figure, axes = panels(1, len(attacks), (2.9, 2.7), sharey=True)
    for panel, attack in zip(axes[0], attacks, strict=True):
        draw_panel(panel, [row for row in rows if row.attack == attack], threshold, labels)
        panel.set_title(symbol(attack))
    axes[0, 0].set_ylabel("share of the detector's boxes, %")
    make_room(axes[0, 0])
    legend(figure, labels)
    caption(figure, f"boxes with a score above {threshold:g}; triangles: medians; n: number of boxes; {text}")
    return figure


def draw_panel(axes: Axes, rows: Sequence[BoxConfidence], threshold: float, labels: Mapping[str, Look]) -> None:
    """Histograms of one attack's boxes, each detector's adding up to 100 %; their medians on the axis."""
    edges = np.linspace(threshold, 1, BINS + 1)
    by_detector = Grouped(rows, lambda row: row.detector)
    for order, (detector, look) in enumerate(labels.items()):
        values = np.array([row.score for row in by_detector.get(detector, [])])
        axes.annotate(f"n = {len(values)}", (0, 1), (4, -1 - 9 * order), xycoords="axes fraction", va="top",
                      textcoords="offset points", color=look.colour, fontsize=7.5)  # fmt: skip
        if len(values):
            share = 100 * np.histogram(values, edges)[0] / len(values)
            axes.stairs(share, edges, color=look.colour, linestyle=look.line, linewidth=1.5)
            axes.plot(np.median(values), 0, "^", color=look.colour, markersize=7, clip_on=False, zorder=5)
    axes.set_xlim(threshold, 1)
    axes.set_xlabel("score")


def make_room(axes: Axes) -> None:
    """From 0, with room for the numbers of boxes above the histograms; once, when all panels of a row are drawn."""
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
