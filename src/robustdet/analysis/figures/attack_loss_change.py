"""Figure 5, right: how much an attack changes the classification and the localisation loss of an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from robustdet.analysis.figures.observation import CLEAN, Grouped, Observation, distinct, observe
from robustdet.analysis.figures.study import Findings, Study
from robustdet.analysis.figures.style import Look, caption, distribution, legend, looks, panels, styled, symbol
from robustdet.types import Attack

LOSSES = {"L_cls": "classification", "L_loc": "localization"}


@dataclass(frozen=True)
class LossChange:
    """Of one image: losses per positive default box under the attack minus those of the clean image."""

    detector: str
    attack: str
    image: str
    classification: float
    localization: float


class AttackLossChange:
    """Changes under each of ``attacks`` in the first ``num_images`` images (None: all) that have objects."""

    def __init__(self, attacks: Mapping[str, Attack], num_images: int | None) -> None:
        self.attacks = attacks
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        rows = loss_changes(observe(study, self.attacks, self.num_images, "losses under attack"))
        return Findings(draw(rows, study.caption(self.num_images)), LossChange, rows, notes(rows))


def loss_changes(observations: Iterable[Observation]) -> list[LossChange]:
    """Of every attacked image with objects, against the same detector's clean image."""
    observations = list(observations)
    clean = {(o.detector, o.target.image_id): o for o in observations if o.attack == CLEAN}
    rows = []
    for seen in observations:
        before = clean[seen.detector, seen.target.image_id]
        if seen.attack != CLEAN and seen.positives:
            rows.append(
                LossChange(
                    seen.detector,
                    seen.attack,
                    seen.target.image_id,
                    seen.classification - before.classification,
                    seen.localization - before.localization,
                )
            )
    return rows


def notes(rows: Sequence[LossChange]) -> list[str]:
    """Medians, detector by detector and attack by attack."""
    found = []
    for (detector, attack), changes in Grouped(rows, lambda row: (row.detector, row.attack)).items():
        medians = [f"{name} {np.median([getattr(c, key) for c in changes]):+.2f}" for name, key in LOSSES.items()]
        found.append(f"{detector}, {attack}: median change of {' and '.join(medians)}")
    return found


@styled
def draw(rows: Sequence[LossChange], text: str) -> Figure:
    """A panel for each loss, all on one scale, so that the losses can be compared too."""
    labels = looks(distinct(row.detector for row in rows))
    figure, axes = panels(1, len(LOSSES), (3.5, 3.0), sharey=True)
    for panel, name in zip(axes[0], LOSSES, strict=True):
        draw_panel(panel, rows, name, labels)
    axes[0, 0].set_ylabel("change of the loss per positive box")
    legend(figure, labels)
    caption(figure, f"boxes: quartiles, whiskers: 5-95 %; {text}")
    return figure


def draw_panel(axes: Axes, rows: Sequence[LossChange], loss: str, labels: Mapping[str, Look]) -> None:
    """The change of one loss: attacks side by side, each with all detectors."""
    attacks = distinct(row.attack for row in rows)
    width = 0.8 / len(labels)
    for (detector, attack), changes in Grouped(rows, lambda row: (row.detector, row.attack)).items():
        place = attacks.index(attack) + (list(labels).index(detector) + 0.5) * width - 0.4
        values = np.array([getattr(change, LOSSES[loss]) for change in changes])
        distribution(axes, place, values, labels[detector], width * 0.85)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_yscale("asinh", linear_width=1)  # about linear up to 1, about logarithmic beyond
    axes.yaxis.set_major_locator(FixedLocator([-30, -10, -3, -1, 0, 1, 3, 10, 30, 100]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(attacks)), [f"under {symbol(attack)}" for attack in attacks])
    axes.set_xlim(-0.5, len(attacks) - 0.5)
    axes.grid(axis="x", visible=False)
    axes.set_title(f"{symbol(loss)}")
