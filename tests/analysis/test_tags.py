from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robustdet.analysis.pictures import draw_found
from robustdet.analysis.tags import Tags, placed
from robustdet.types import Detections

ROOM = (0.0, 0.0, 300.0, 300.0)
TALL, WIDE = 12.0, 60.0


def apart(one, other):
    across = max(one[0], other[0]) >= min(one[2], other[2]) - 1e-6
    down = max(one[1], other[1]) >= min(one[3], other[3]) - 1e-6
    return across or down


def touches(place, box):
    return all(place[k] <= box[k + 2] + 1e-6 and box[k] <= place[k + 2] + 1e-6 for k in (0, 1))


corner = st.integers(-140, 2030).map(lambda n: n / 7)
side = st.integers(7, 1400).map(lambda n: n / 7)
boxes_anywhere = st.lists(
    st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])), max_size=30
)


@settings(deadline=None)
@given(boxes_anywhere, st.integers(5, 90).map(float))
def test_no_tag_hides_another_and_each_is_at_its_box_and_in_the_picture(boxes, width):
    places = placed(boxes, [(width, TALL)] * len(boxes), ROOM)
    shown = [(place, box) for place, box in zip(places, boxes, strict=True) if place is not None]
    for index, (place, box) in enumerate(shown):
        assert touches(place, box)
        assert min(place) >= 0
        assert max(place) <= 300
        assert math.isclose(place[2] - place[0], width)
        assert all(apart(place, other) for other, _ in shown[:index])


@settings(deadline=None)
@given(boxes_anywhere)
def test_a_tag_is_left_out_only_where_there_is_no_room_at_its_box(boxes):
    places = placed(boxes, [(WIDE, TALL)] * len(boxes), ROOM)
    for index, (place, box) in enumerate(zip(places, boxes, strict=True)):
        if place is None and box[2] > 0 and box[3] > 0:
            taken = [other for other in places[:index] if other is not None]
            for x in range(0, 241, 5):  # no place on a raster is free, either
                for y in range(0, 289, 4):
                    there = (float(x), float(y), x + WIDE, y + TALL)
                    assert not touches(there, box) or not all(apart(there, other) for other in taken)


@settings(deadline=None)
@given(st.integers(1, 14), st.tuples(corner, corner).map(lambda c: (abs(c[0]) % 200, abs(c[1]) % 200)))
def test_tags_of_one_box_are_all_shown(number, corner):
    """Fourteen tags of 60 x 12 have room at a box of 90 x 90 however they are asked for."""
    box = (*corner, corner[0] + 90, corner[1] + 90)
    places = placed([box] * number, [(WIDE, TALL)] * number, ROOM)
    assert None not in places
    assert places[0] == (*corner, corner[0] + WIDE, corner[1] + TALL) or corner[0] + WIDE > 300


def test_one_alone_stays_in_its_corner_and_in_the_picture():
    def alone(box, width=WIDE):
        return placed([tuple(map(float, box))], [(width, TALL)], ROOM)[0]

    assert alone((30, 40, 90, 90)) == (30, 40, 90, 52)
    assert alone((-9, -9, 90, 90)) == (0, 0, 60, 12)
    assert alone((280, 295, 299, 299)) == (240, 288, 300, 300)
    assert alone((280, 295, 299, 299), width=400.0) is None


@pytest.mark.parametrize("dpi", [50, 120])
def test_in_a_drawn_picture_no_tag_overlaps(dpi):
    figure = Figure(figsize=(3, 3), dpi=dpi, layout="constrained")
    axes = figure.subplots()
    axes.imshow(torch.zeros(96, 96, 3).numpy())
    boxes = torch.tensor([[10.0, 10, 60, 60], [11, 11, 61, 61], [12, 12, 58, 62], [10, 60, 50, 95]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 2, 2, 1]))
    draw_found(axes, found, ["triangle", "square"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (tags,) = [artist for artist in axes.get_children() if isinstance(artist, Tags)]
    laid_out = tags.laid_out(canvas.get_renderer())
    assert [tag.text for tag, *_ in laid_out] == ["triangle 0.90", "square 0.80", "square 0.70", "triangle 0.60"]
    rectangles = []
    for _, text, _, _ in laid_out:
        text.update_bbox_position_size(canvas.get_renderer())
        x0, y0, x1, y1 = text.get_bbox_patch().get_window_extent(canvas.get_renderer()).extents
        assert all(apart((x0 + 0.1, y0 + 0.1, x1 - 0.1, y1 - 0.1), other) for other in rectangles)
        rectangles.append((x0, y0, x1, y1))
        assert axes.bbox.contains(x0 + 0.1, y0 + 0.1)
        assert axes.bbox.contains(x1 - 0.1, y1 - 0.1)
