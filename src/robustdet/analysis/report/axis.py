"""The frame of a drawing and its linear axes, whose ends are round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """A drawing's size in user units, and the edges of its axes within."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """From ``low`` at ``start`` to ``high`` at ``end``, in units of the drawing; a tick every ``step``."""

    low: float | int
    high: float | int
    start: float | int
    end: float | int
    step: float | int

    def at(self, value: float | int) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[Tick]:
        count = round((self.high - self.low) / self.step)
        return [Tick(self.at(value), f"{value:g}") for value in (self.low + self.step * k for k in range(count + 1))]


def around(
    values: Sequence[float], start: float | int, end: float | int, steps: float | int = 4, margin: float | int = 0.05
) -> Axis:
    """An axis that holds these ``values``, none of them below 0, and ``margin`` of their span around them.

    Its ticks are 1, 2 or 5 times 10^n apart, about ``steps`` of them.
    """
    span = max(max(values) - min(values), 1.0)
    magnitude = 10.0 ** math.floor(math.log10(span / steps))
    step = next(multiple * magnitude for multiple in (1, 2, 5, 10) if multiple * magnitude * steps >= span)
    first = max(math.floor((min(values) - span * margin) / step), 0)
    last = math.ceil((max(values) + span * margin) / step)
    return Axis(round(first * step, 6), round(last * step, 6), start, end, step)
