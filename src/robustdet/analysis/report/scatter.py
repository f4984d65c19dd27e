"""A scatter plot as coordinates for an inline SVG, which takes the page's colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustdet.analysis.report.pareto import Point, Sweep

WIDTH, HEIGHT, LEFT, BELOW, MARGIN = 560, 340, 56, 46, 16  # of the drawing and its border, user units


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    left: bool  # whether the label goes to the left of the dot
    point: Point


@dataclass(frozen=True)
class Scatter:
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: list[Dot]
    front: str  # an SVG polyline's points


def scatter(sweep: Sweep) -> Scatter:
    """Clean AP to the right, robust AP upwards."""
    x_range, x_values = _axis([point.clean for point in sweep.points])
    y_range, y_values = _axis([point.robust for point in sweep.points])

    def x(value: float) -> float:
        return round(LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - MARGIN), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BELOW - (value - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - BELOW - MARGIN), 1)

    dots = [Dot(x(p.clean), y(p.robust), x(p.clean) > WIDTH * 0.62, p) for p in sweep.points]
    return Scatter(
        [Tick(x(value), f"{value:g}") for value in x_values],
        [Tick(y(value), f"{value:g}") for value in y_values],
        dots,
        " ".join(f"{dot.x},{dot.y}" for dot in dots if dot.point.on_front),
    )


def _axis(values: Sequence[float]) -> tuple[tuple[float, float], list[float]]:
    """A range around ``values`` that ends on ticks, and its ticks: 1, 2 or 5 times a power of ten apart."""
    low, high = min(values), max(values)
    span = max(high - low, 1.0)
    magnitude = 10 ** math.floor(math.log10(span / 4))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude * 4 >= span)
    first, last = math.floor((low - span * 0.05) / step), math.ceil((high + span * 0.05) / step)
    return (first * step, last * step), [round(index * step, 6) for index in range(first, last + 1)]
