"""Figure 1: precision over recall, on clean images and under attack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustdet.analysis.figures.observation import Grouped, Observation, distinct, observe, scores
from robustdet.analysis.figures.study import Findings, Study
from robustdet.analysis.figures.style import Look, caption, looks, panels, styled, symbol
from robustdet.evaluation.average_precision import AveragePrecision
from robustdet.evaluation.metric import Metric
from robustdet.types import Attack

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class PrecisionAtRecall:
    """``precision`` is the mean over classes; ``map`` the data set's own mAP of detector and attack. All in [0, 1]."""

    detector: str
    attack: str
    recall: float
    precision: float
    map: float


class PRCurves:
    """Curves of the first ``num_images`` images (None: all), clean and under each of ``attacks``."""

    def __init__(self, attacks: Mapping[str, Attack], num_images: int | None) -> None:
        self.attacks = attacks
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        observations = observe(study, self.attacks, self.num_images, "precision-recall curves")
        rows = precision_at_recall(observations, study.metric)
        best = {(row.detector, row.attack): row.map for row in rows}
        notes = [f"{detector}, {attack}: mAP {100 * value:.1f}" for (detector, attack), value in best.items()]
        return Findings(draw(rows, study.caption(self.num_images)), PrecisionAtRecall, rows, notes)


def precision_at_recall(observations: Iterable[Observation], metric: Metric) -> list[PrecisionAtRecall]:
    """Of each detector under each attack, at recalls 0, 0.01, …, 1."""
    rows = []
    for (detector, attack), seen in Grouped(observations, lambda o: (o.detector, o.attack)).items():
        result = scores(seen, metric).headline
        curve = mean_curve(result)
        rows += [
            PrecisionAtRecall(detector, attack, float(recall), float(precision), result.mean)
            for recall, precision in zip(RECALLS, curve, strict=True)
        ]
    return rows


def mean_curve(result: AveragePrecision) -> Float[np.ndarray, "101"]:
    """Best precision at each of `RECALLS` or beyond (0 where it is never reached), mean over classes with objects.

    Its mean over recalls 0, 0.1, …, 1 is the mAP of VOC07.
    """
    curves = [curve for curve in result.curves if curve is not None]
    best = [[curve.precision[curve.recall >= r - 1e-9].max(initial=0.0) for r in RECALLS] for curve in curves]
    return np.mean(best, axis=0)


@styled
def draw(rows: Sequence[PrecisionAtRecall], text: str) -> Figure:
    """A panel for clean images and one for each attack."""
    attacks, labels = distinct(row.attack for row in rows), looks(distinct(row.detector for row in rows))
    figure, axes = panels(1, len(attacks), (2.9, 3.0), sharey=True)
    for panel, attack in zip(axes[0], attacks, strict=True):
        draw_panel(panel, [row for row in rows if row.attack == attack], labels)
        panel.set_title(symbol(attack))
    axes[0, 0].set_ylabel("precision")
    caption(figure, f"mean over classes; IoU ≥ 0.5; {text}")
    return figure


def draw_panel(axes: Axes, rows: Sequence[PrecisionAtRecall], labels: Mapping[str, Look]) -> None:
    """One attack's curves; the legend says each detector's mAP."""
    for detector, points in Grouped(rows, lambda row: row.detector).items():
        look = labels[detector]
        axes.plot(
            [point.recall for point in points],
            [point.precision for point in points],
            color=look.colour,
            linestyle=look.line,
            label=f"{detector}  {100 * points[0].map:.1f}",
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall")
    axes.legend(title="mAP, %", alignment="left", fontsize=7.5, title_fontsize=7.5, loc="best")
