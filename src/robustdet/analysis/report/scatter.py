"""A scatter plot as coordinates for an inline SVG, which takes the page's colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustdet.analysis.report.pareto import Point, Sweep

WIDTH, HEIGHT = 560, 340  # of the drawing, user units
LEFT, RIGHT, TOP, BOTTOM = 56, 544, 16, 294  # of the axes within


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    point: Point


@dataclass(frozen=True)
class Scatter:
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: list[Dot]
    front: str  # an SVG polyline's points
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def scatter(sweep: Sweep) -> Scatter:
    """Clean AP to the right, robust AP upwards."""
    x_range, x_values = _axis([point.clean for point in sweep.points])
    y_range, y_values = _axis([point.robust for point in sweep.points])

    def x(value: float) -> float:
        return round(LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (RIGHT - LEFT), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (value - y_range[0]) / (y_range[1] - y_range[0]) * (BOTTOM - TOP), 1)

    dots = [Dot(x(p.clean), y(p.robust), p) for p in sweep.points]
    return Scatter(
        [Tick(x(value), f"{value:g}") for value in x_values],
        [Tick(y(value), f"{value:g}") for value in y_values],
        dots,
        " ".join(f"{dot.x},{dot.y}" for dot in dots if dot.point.on_front),
    )


def _axis(values: Sequence[float]) -> tuple[tuple[float, float], list[float]]:
    """A range around AP ``values`` (percent) that ends on ticks, and its ticks: 1, 2 or 5 times 10^n apart."""
    span = max(max(values) - min(values), 1.0)
    magnitude = 10.0 ** math.floor(math.log10(span / 4))
    step = next(multiple * magnitude for multiple in (1, 2, 5, 10) if multiple * magnitude * 4 >= span)
    first = max(math.floor((min(values) - span * 0.05) / step), 0)  # no AP is below 0
    last = math.ceil((max(values) + span * 0.05) / step)
    ticks = [round(index * step, 6) for index in range(first, last + 1)]
    return (ticks[0], ticks[-1]), ticks
