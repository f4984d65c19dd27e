"""How training went: its loss, and AP on validation images, over the weight updates; lines of an inline SVG."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from robustdet.analysis.report.axis import Axis, Frame, Tick, around
from robustdet.analysis.report.findings import Trained

FRAME = Frame(width=320, height=190, left=40, right=308, top=12, bottom=150)
POINTS = 150  # of a line, at most
METRICS = Path("csv", "metrics.csv")  # as `logger=csv` writes it into a run's folder
LOSS = {"train/loss": "loss"}
VALIDATION = {"val/AP50_clean": "clean", "val/AP50_attacked": "attacked"}

Series: TypeAlias = list[tuple[float, float]]
"""Updates made, and the value after them."""


@dataclass(frozen=True)
class Line:
    name: str
    points: Series  # in units of the drawing

    @property
    def polyline(self) -> str:
        return " ".join(f"{x},{y}" for x, y in self.points)


@dataclass(frozen=True)
class Panel:
    title: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    spoken: str  # the curve in words: where it begins and ends
    frame: Frame = FRAME


@dataclass(frozen=True)
class Curves:
    run: Trained
    panels: list[Panel]


def curves(runs: Sequence[Trained]) -> list[Curves]:
    """Of each run that kept its metrics; panels of AP share their scale."""
    return [Curves(run, panels) for run in runs if (panels := _panels(run))]


def _panels(run: Trained) -> list[Panel]:
    file = run.folder / METRICS
    if not file.is_file():
        return []
    loss, validation = read(file, LOSS), read(file, VALIDATION)
    percent = {name: [(x, 100 * y) for x, y in of] for name, of in validation.items()}
    updates = max((x for of in [*loss.values(), *percent.values()] for x, _ in of), default=0.0)
    panels = []
    if loss:
        scale = around([0.0, *(y for of in loss.values() for _, y in of)], FRAME.bottom, FRAME.top, margin=0)
        panels.append(_panel("training loss", loss, updates, scale))
    if percent:
        panels.append(_panel("validation AP50, %", percent, updates, Axis(0.0, 100.0, FRAME.bottom, FRAME.top, 25.0)))
    return panels


def read(file: Path, names: Mapping[str, str]) -> dict[str, Series]:
    """The finite values of these columns, under their new names; half a line, as a killed run leaves it, is none."""
    found: dict[str, Series] = {}
    with file.open(newline="", encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            for column, name in names.items():
                step, value = _number(row.get("step")), _number(row.get(column))
                if step is not None and value is not None:
                    found.setdefault(name, []).append((step + 1, value))
    return found


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _panel(title: str, series: Mapping[str, Series], updates: float | int, y: Axis) -> Panel:
    x = around([0.0, updates], FRAME.left, FRAME.right, margin=0)
    lines = [Line(name, [(x.at(u), y.at(v)) for u, v in thinned(of)]) for name, of in series.items()]
    spoken = "; ".join(
        f"{name} from {of[0][1]:.3g} after {of[0][0]:g} updates to {of[-1][1]:.3g} after {of[-1][0]:g}"
        for name, of in series.items()
    )
    return Panel(title, lines, x.ticks, y.ticks, spoken)


def thinned(series: Series, points: int = POINTS) -> Series:
    """At most so many points, each the mean of its neighbours."""
    size = math.ceil(len(series) / points)
    parts = [series[start : start + size] for start in range(0, len(series), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
