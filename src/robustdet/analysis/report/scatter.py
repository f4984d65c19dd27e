"""A scatter plot as coordinates for an inline SVG, which takes the page's colours, light or dark."""

from __future__ import annotations

from dataclasses import dataclass

from robustdet.analysis.report.axis import Frame, Tick, around
from robustdet.analysis.report.pareto import Point, Sweep

FRAME = Frame(width=560, height=340, left=56, right=544, top=16, bottom=294)


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
    frame: Frame = FRAME


def scatter(sweep: Sweep) -> Scatter:
    """Clean AP to the right, robust AP upwards."""
    across = around([point.clean for point in sweep.points], FRAME.left, FRAME.right)
    up = around([point.robust for point in sweep.points], FRAME.bottom, FRAME.top)
    dots = [Dot(across.at(p.clean), up.at(p.robust), p) for p in sweep.points]
    front = " ".join(f"{dot.x},{dot.y}" for dot in dots if dot.point.on_front)
    return Scatter(across.ticks, up.ticks, dots, front)
