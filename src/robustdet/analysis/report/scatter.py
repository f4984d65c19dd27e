"""A scatter plot as coordinates for an inline SVG, which takes the page's colours, light or dark."""

from __future__ import annotations

from dataclasses import dataclass

from robustdet.analysis.report.axis import Tick, around
from robustdet.analysis.report.pareto import Point, Sweep

WIDTH, HEIGHT = 560, 340  # of the drawing, user units
LEFT, RIGHT, TOP, BOTTOM = 56, 544, 16, 294  # of the axes within


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
    across = around([point.clean for point in sweep.points], LEFT, RIGHT)
    up = around([point.robust for point in sweep.points], BOTTOM, TOP)
    dots = [Dot(across.at(p.clean), up.at(p.robust), p) for p in sweep.points]
    front = " ".join(f"{dot.x},{dot.y}" for dot in dots if dot.point.on_front)
    return Scatter(across.ticks, up.ticks, dots, front)
