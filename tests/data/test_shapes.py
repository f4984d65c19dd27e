from __future__ import annotations

import cv2
import numpy as np
import pytest

from robustdet.data.shapes import FORMS, LARGEST, NOISE, SMALLEST, TEXTURE, TEXTURES, draw_scene, polygon, star


def scenes(count: int, size: int = 96) -> list:
    return [draw_scene(np.random.default_rng([1, i]), size) for i in range(count)]


def test_the_same_seed_draws_the_same_pixels_and_another_does_not() -> None:
    first, second, other = (draw_scene(np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert (first.image != other.image).mean() > 0.9


def test_every_machine_draws_this() -> None:
    """A change of these numbers changes the data of everybody: raise REVISION in shapes_set with it."""
    scene = draw_scene(np.random.default_rng([0, 0, 0]))
    assert scene.boxes.tolist() == [[10, 56, 51, 92], [48, 25, 96, 71], [23, 33, 57, 69], [58, 53, 88, 96]]
    assert [list(FORMS)[label - 1] for label in scene.labels] == ["cross", "cross", "triangle", "disc"]
    assert scene.image.astype(float).mean(axis=(0, 1)) == pytest.approx([79.309, 99.897, 99.995], abs=0.01)


@pytest.mark.parametrize("size", [48, 96, 150])
def test_scenes_keep_their_promises(size: int) -> None:
    drawn = scenes(40, size)
    counts = [len(scene.labels) for scene in drawn]
    assert min(counts) >= 1
    assert max(counts) == 4
    assert {int(label) for scene in drawn for label in scene.labels} == set(range(1, len(FORMS) + 1))
    boxes = np.concatenate([scene.boxes for scene in drawn])
    assert boxes.min() >= 0
    assert boxes.max() <= size
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 0.65 * SMALLEST * size  # a stretched star is narrower than its circle
    assert sides.max() <= 1.4 * LARGEST * size
    areas = np.concatenate([scene.areas for scene in drawn])
    assert ((areas > 0.15 * sides.prod(axis=1)) & (areas <= sides.prod(axis=1))).all()
    assert 0.03 < np.concatenate([scene.difficult for scene in drawn]).mean() < 0.3


def test_the_texture_tells_the_class_until_it_is_blurred() -> None:
    """Correlate each object's pixels with every class's texture in every phase: the largest wins."""
    y, x = np.mgrid[:96, :96]

    def guess(pixels: np.ndarray, box: np.ndarray) -> int:
        left, top, right, bottom = (box + np.array([4, 4, -4, -4])).tolist()
        patch = pixels[top:bottom, left:right].mean(axis=-1)
        patch = patch - cv2.blur(patch, (4, 4))
        scores = []
        for texture in TEXTURES:
            signs = [2.0 * texture(x + i, y + j)[top:bottom, left:right] - 1 for i in range(4) for j in range(4)]
            scores.append(max(float((patch * sign).mean()) for sign in signs))
        return int(np.argmax(scores)) + 1

    sharp, blurred, total = 0, 0, 0
    for scene in scenes(60):
        soft = cv2.blur(scene.image.astype(np.float64), (4, 4))
        for box, label, difficult in zip(scene.boxes, scene.labels, scene.difficult, strict=True):
            if not difficult:
                total += 1
                sharp += guess(scene.image.astype(np.float64), box) == label
                blurred += guess(soft, box) == label
    assert total > 80
    assert sharp / total > 0.85
    assert blurred / total < 0.4


def test_a_flipped_texture_is_its_own_class_in_another_phase() -> None:
    y, x = np.mgrid[:12, :12]
    for texture in TEXTURES:
        phases = {texture(x + i, y + j).tobytes() for i in range(4) for j in range(4)}
        assert texture(x, y)[:, ::-1].tobytes() in phases
        assert texture(x, y).mean() == 0.5
    distinct = [{t(x + i, y + j).tobytes() for i in range(4) for j in range(4)} for t in TEXTURES]
    assert sum(map(len, distinct)) == len(set().union(*distinct))
    assert len(TEXTURES) == len(FORMS)
    assert TEXTURE + NOISE <= 8  # the usual threat: an attacker can erase it, under the noise too


@pytest.mark.parametrize(
    ("form", "corners"),
    [
        (polygon((-1.0, 0.0), (0.5, -0.5), (0.0, 0.9)), [(-1.0, 0.0), (0.5, -0.5), (0.0, 0.9)]),
        (FORMS["triangle"], [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)]),
        (
            star(5, 0.42),
            [
                ((0.42 if k % 2 else 1) * np.sin(np.pi * k / 5), -(0.42 if k % 2 else 1) * np.cos(np.pi * k / 5))
                for k in range(10)
            ],
        ),
    ],
)  # fmt: skip
def test_polygon_distance_agrees_with_opencv(form, corners) -> None:
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (200, 2))
    contour = np.array(corners, dtype=np.float32).reshape(-1, 1, 2)
    expected = [-cv2.pointPolygonTest(contour, (float(x), float(y)), True) for x, y in points]
    np.testing.assert_allclose(form(points[:, 0], points[:, 1]), expected, atol=1e-5)
