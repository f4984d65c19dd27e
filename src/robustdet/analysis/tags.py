"""Names beside boxes in a picture, placed so that none hides another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.text import Text

Rectangle: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 on the screen, y downwards."""

PADDING = 0.8  # points around a tag's text


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
    taken: list[Rectangle] = []
    places = []
    for box, (width, height) in zip(boxes, sizes, strict=True):
        # a free place can be pushed along until it meets an edge: those where it does are all that need be tried
        lefts = {box[0], box[0] - width, box[2] - width, box[2], room[0], room[2] - width}
        tops = {box[1], box[1] - height, box[3] - height, box[3], room[1], room[3] - height}
        lefts |= {edge for other in taken for edge in (other[0] - width, other[2])}
        tops |= {edge for other in taken for edge in (other[1] - height, other[3])}
        lefts = {x for x in lefts if room[0] <= x <= room[2] - width and box[0] - width <= x <= box[2]}
        tops = {y for y in tops if room[1] <= y <= room[3] - height and box[1] - height <= y <= box[3]}
        candidates = [(x, y, x + width, y + height) for x, y in product(lefts, tops)]
        candidates.sort(key=lambda place: ((place[0] - box[0]) ** 2 + (place[1] - box[1]) ** 2, place))
        free = next((place for place in candidates if not any(_overlap(place, other) for other in taken)), None)
        taken += [] if free is None else [free]
        places.append(free)
    return places


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    """By more than what comes of rounding."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return min(across, down) > 1e-6


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
