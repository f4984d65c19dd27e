"""Which of several detectors is better, clean and under attack, and whether other images might have said otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from robustdet.analysis.figures.observation import Grouped, Observation, distinct, observe
from robustdet.analysis.figures.study import Findings, Study
from robustdet.analysis.figures.style import GREY, caption, looks, panels, styled, symbol
from robustdet.errors import InputError
from robustdet.evaluation.average_precision import match_detections
from robustdet.evaluation.chance import resampled_map
from robustdet.types import Attack

ENOUGH = 50  # images; of 20 drawn shapes 90 % of the intervals held the truth, of 5 two thirds
NORMAL = 1.96  # standard deviations on each side hold 95 % of a normal variable


@dataclass(frozen=True)
class Difference:
    """mAP of ``detector`` minus mAP of ``other`` under one attack, in points (-100 to 100).

    ``low`` and ``high`` bound it with 95 % confidence over the choice of images: both are measured on the same
    resamples of them (a paired bootstrap), so that an image that is hard for both does not blur the difference.
    Seeds of training are another matter: these are two detectors, not two methods.
    """

    detector: str
    other: str
    attack: str
    difference: float
    low: float
    high: float


class Differences:
    """Each detector against each that comes after it, on the first ``num_images`` images (None: all)."""

    def __init__(self, attacks: Mapping[str, Attack], num_images: int | None) -> None:
        self.attacks = attacks
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        """Raises InputError where there is but one detector, for want of another to compare with."""
        if len(study.subjects) < 2:
            raise InputError(
                f"{study.subjects[0].label} alone has nothing to differ from: give two checkpoints or more, "
                "'ckpt_path=[A.ckpt,B.ckpt]'"
            )
        rows = differences(observe(study, self.attacks, self.num_images, "differences"))
        notes = [sentence(row) for row in rows]
        if (count := study.count(self.num_images)) < ENOUGH:
            notes.append(f"{count} images are too few: these intervals are too narrow, look at {ENOUGH} images or more")
        return Findings(draw(rows, study.caption(self.num_images)), Difference, rows, notes)


def differences(observations: Iterable[Observation]) -> list[Difference]:
    """Of each pair of detectors under each attack; the area rule at IoU 0.5, whatever the data set's own metric."""
    maps = {
        key: 100 * resampled_map([match_detections(one.detections, one.target) for one in seen])
        for key, seen in Grouped(observations, lambda o: (o.detector, o.attack)).items()
    }
    rows = []
    for first, second in combinations(distinct(detector for detector, _ in maps), 2):
        for attack in distinct(attack for _, attack in maps):
            by_draw = maps[first, attack] - maps[second, attack]
            spread = NORMAL * float(np.nanstd(by_draw[1:], ddof=1))  # NaN: a draw of images without objects
            whole = float(by_draw[0])
            rows.append(Difference(first, second, attack, whole, whole - spread, whole + spread))
    return rows


def sentence(row: Difference) -> str:
    doubt = "" if row.low > 0 or row.high < 0 else ", which other images might turn round"
    what, interval = f"{row.detector} - {row.other}, {row.attack}", f"[{row.low:+.1f}, {row.high:+.1f}]"
    return f"{what}: {row.difference:+.1f} points {interval}{doubt}"


@styled
def draw(rows: Sequence[Difference], text: str) -> Figure:
    """A panel for each pair, an interval for each attack: in the colour of the better detector, or grey for neither."""
    pairs = Grouped(rows, lambda row: (row.detector, row.other))
    labels = looks(distinct(name for pair in pairs for name in pair))
    attacks = distinct(row.attack for row in rows)
    columns = min(len(pairs), 3)
    lines = -(-len(pairs) // columns)
    size = (3.1, 0.8 + 0.3 * len(attacks))
    figure, axes = panels(lines, columns, size, sharex=True, sharey=True)
    for panel in axes.flat[len(pairs) :]:
        panel.set_axis_off()
    for panel, ((first, second), of) in zip(axes.flat, pairs.items(), strict=False):
        panel.axvline(0, color=GREY, linewidth=0.8)
        for row in of:
            better = first if row.low > 0 else second if row.high < 0 else None
            colour = GREY if better is None else labels[better].colour
            place = attacks.index(row.attack)
            panel.plot([row.low, row.high], [place, place], color=colour)
            panel.plot([row.difference], [place], color=colour, marker="o")
        panel.set_title(f"{first} - {second}")
        panel.set_xlabel("mAP, points")
    axes[0, 0].set_yticks(range(len(attacks)), [symbol(attack) for attack in attacks])
    axes[0, 0].invert_yaxis()
    caption(figure, f"95 % intervals of a paired bootstrap over images; IoU ≥ 0.5, area rule; {text}")
    return figure
