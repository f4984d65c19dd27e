"""How figures look: one place for fonts, sizes and colours.

A detector has the same colour, marker and line in every panel of a figure. Colours are Okabe and Ito's, which stay
distinct for colour-blind readers; markers and dashes keep them apart without any colour.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MARKERS = "osD^vPX"
LINES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), "-")
GREY = "#666666"
PANEL = (2.9, 2.4)  # inches
DOTS = 150  # single values drawn over a box, at most

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.constrained_layout.use": True,
    "mathtext.default": "regular",
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Decorates a drawing function: everything it creates has this style, nothing outside changes."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are a Literal of all there are
            return draw(*args, **kwargs)

    return in_style


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    line: Any  # a matplotlib line style


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look for each detector, by order; beyond seven, colours come again with other markers."""
    found = {}
    for index, label in enumerate(labels):
        again, place = divmod(index, len(COLOURS))
        found[label] = Look(
            COLOURS[place], MARKERS[(place + again) % len(MARKERS)], LINES[(place + again) % len(LINES)]
        )
    return found


def panels(rows: int, columns: int, size: tuple[float, float] = PANEL, **subplots: Any) -> tuple[Figure, Any]:
    """A figure of equal panels ``size`` (width, height) in inches, and its axes as an array [rows, columns]."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.6), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def legend(figure: Any, labels: dict[str, Look], marker: bool = False) -> None:
    """One entry a detector, above everything, in as many columns as there is room for."""
    handles = [
        Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker if marker else "", label=label)
        for label, look in labels.items()
    ]
    entry = 0.65 + 0.075 * max(map(len, labels))  # inches: line and gap, and letters
    columns = max(1, min(len(handles), 4, int(figure.bbox.width / figure.dpi / entry)))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6)


def caption(figure: Any, text: str) -> None:
    """Small print below everything: what the figure stands on."""
    figure.supxlabel(text, fontsize=7.5, color=GREY, x=0.99, ha="right")


def symbol(name: str) -> str:
    """The paper's symbols set as such: A_cls, L_loc with an index; other names as they are."""
    return re.sub(r"\b([AL])_([a-z]+)", r"$\1_{\2}$", name)


def distribution(
    axes: Axes, position: float | int, values: Float[np.ndarray, " n"], look: Look, width: float = 0.6
) -> None:
    """Quartiles as a box with the median, whiskers from 5 to 95 %, and single values (evenly thinned out) over it."""
    if not len(values):
        return
    axes.boxplot(
        [values],
        positions=[position],
        widths=width,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": _tint(look.colour), "edgecolor": look.colour, "linewidth": 1},
        medianprops={"color": look.colour, "linewidth": 2},
        whiskerprops={"color": look.colour, "linewidth": 1},
        capprops={"color": look.colour, "linewidth": 1},
        zorder=2,
    )
    shown = np.sort(values)[np.linspace(0, len(values) - 1, min(DOTS, len(values))).astype(int)]
    # the golden ratio spreads neighbouring values apart, without any random number
    aside = ((np.arange(len(shown)) * 0.618034) % 1 - 0.5) * width * 0.8
    axes.plot(position + aside, shown, ".", color=look.colour, alpha=0.45, markersize=3, markeredgewidth=0, zorder=3)


def _tint(colour: str) -> tuple[float, float, float]:
    """The colour mixed with three parts of white."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return (0.75 + red / 4, 0.75 + green / 4, 0.75 + blue / 4)
