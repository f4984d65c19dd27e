"""Names beside boxes in a picture, placed so that none hides another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.text import Text

Rectangle: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 on the screen, y downwards."""

PADDING = 0.8  # points around a tag's text
ROUNDING = 1e-6  # pixels that two tags may share


@dataclass(frozen=True)
class Tag:
    """What is said of a box (x0, y0, x1, y1 in data coordinates)."""

    box: tuple[float, float, float, float]
    text: str
    background: str
    colour: str


def placed(boxes: Sequence[Rectangle], sizes: Sequence[tuple[float, float]], room: Rectangle) -> list[Rectangle | None]:
    """Where tags of these sizes (width, height) go, each at its box, the first ones first.

    A tag's place is inside the upper left corner of its box or, where another tag is in the way, the free one nearest
    to it that still touches the box; None where there is none. All are inside ``room``.
    """
    taken = np.empty((0, 4))
    places = []
    for box, size in zip(boxes, sizes, strict=True):
        free = _nearest_free(box, size, room, taken)
        places.append(free)
        taken = taken if free is None else np.vstack([taken, free])
    return places


def _nearest_free(
    box: Rectangle, size: tuple[float, float], room: Rectangle, taken: Float64[np.ndarray, "T 4"]
) -> Rectangle | None:
    width, height = size
    near = taken[(_common(taken[:, 0::2], box[0] - width, box[2] + width) > 0)
                 & (_common(taken[:, 1::2], box[1] - height, box[3] + height) > 0)]  # fmt: skip
    # a free place can be pushed along until it meets an edge: those where it does are all that need be tried
    lefts = _edges(box[0::2], room[0::2], width, near[:, 0::2])
    tops = _edges(box[1::2], room[1::2], height, near[:, 1::2])
    found, distance = None, np.inf
    for left in lefts:  # the nearest first
        if (left - box[0]) ** 2 >= distance:
            break
        beside = near[_common(near[:, 0::2], left, left + width) > ROUNDING]
        hidden = _common(beside[None, :, 1::2], tops[:, None], tops[:, None] + height) > ROUNDING
        free = tops[~hidden.any(axis=1)]
        if len(free) and (away := (left - box[0]) ** 2 + (free[0] - box[1]) ** 2) < distance:
            found, distance = (float(left), float(free[0]), float(left + width), float(free[0] + height)), away
    return found


def _edges(
    box: Sequence[float], room: Sequence[float], size: float, near: Float64[np.ndarray, "T 2"]
) -> Float64[np.ndarray, "E"]:
    """Where a tag of this size can begin along one axis: at its box, in the room, at an edge; the nearest first."""
    ends = np.array([box[0], box[0] - size, box[1] - size, box[1], room[0], room[1] - size])
    found = np.unique(np.concatenate([ends, near[:, 0] - size, near[:, 1]]))
    found = found[(found >= max(room[0], box[0] - size)) & (found <= min(room[1] - size, box[1]))]
    return found[np.argsort(np.abs(found - box[0]), kind="stable")]


def _common(
    others: Float64[np.ndarray, "*T 2"],
    low: float | Float64[np.ndarray, "E 1"],
    high: float | Float64[np.ndarray, "E 1"],
) -> np.ndarray:
    """How long the part is that an interval shares with each of the others; below 0 for their distance."""
    return np.minimum(others[..., 1], high) - np.maximum(others[..., 0], low)


class Tags(Artist):
    """The tags of one picture, the most important first; one for which there is no room is left out.

    They are placed when they are drawn: only then is it known how large text and picture are. One that had to leave its
    box's corner is tied to it by a thin line.
    """

    def __init__(self, tags: Sequence[Tag], fontsize: float = 7.5) -> None:
        super().__init__()
        self.set_in_layout(False)
        self.set_zorder(4)  # above the boxes
        self.tags, self.fontsize = list(tags), fontsize

    def draw(self, renderer: Any) -> None:
        """``renderer`` is one of matplotlib's; those that mix vectors and pixels share no class with the others."""
        for tag, text, corner, place in self.laid_out(renderer):
            left, top, right, bottom = place
            if (left, top) != corner:
                end = min(max(corner[0], left), right), min(max(corner[1], top), bottom)
                line = Line2D([corner[0], end[0]], [-corner[1], -end[1]], color=tag.background, linewidth=0.8)
                line.set_figure(self.figure)
                line.draw(renderer)
            text.draw(renderer)
        self.stale = False

    def laid_out(self, renderer: Any) -> list[tuple[Tag, Text, tuple[float, float], Rectangle]]:
        """Of each tag that has a place: its text, its box's corner within the picture, and its place."""
        assert self.axes is not None
        room = _downwards(self.axes.bbox.extents)
        boxes = [_downwards(self.axes.transData.transform(np.reshape(tag.box, (2, 2))).ravel()) for tag in self.tags]
        texts = [self._text(tag) for tag in self.tags]
        padding = float(np.asarray(renderer.points_to_pixels(PADDING)))
        extents = [text.get_window_extent(renderer) for text in texts]
        sizes = [(float(extent.width) + 2 * padding, float(extent.height) + 2 * padding) for extent in extents]
        found = []
        for tag, box, text, place in zip(self.tags, boxes, texts, placed(boxes, sizes, room), strict=True):
            if place is not None:
                text.set_position((place[0] + padding, -(place[3] - padding)))
                found.append((tag, text, (max(box[0], room[0]), max(box[1], room[1])), place))
        return found

    def _text(self, tag: Tag) -> Text:
        patch = {"facecolor": tag.background, "edgecolor": "none", "pad": PADDING, "alpha": 0.9}
        text = Text(0, 0, tag.text, fontsize=self.fontsize, color=tag.colour, verticalalignment="bottom", bbox=patch)
        text.set_figure(self.figure)
        return text


def _downwards(extent: Iterable[float]) -> Rectangle:
    """Two corners in matplotlib's pixels, y upwards, as a rectangle."""
    x0, y0, x1, y1 = map(float, extent)
    return min(x0, x1), -max(y0, y1), max(x0, x1), -min(y0, y1)
