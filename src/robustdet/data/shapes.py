"""A drawn scene: forms on a textured background, told apart by outline, and by a faint texture that gives them away.

The texture (±6/255, smaller than the usual ε of 8/255) belongs to the class, so a detector learns to lean on it, as
detectors do on real photographs, and an attacker can erase it. Settings that are hard enough and still learnt from
scratch in minutes: 96 pixels, objects of 20-50 pixels, contrast 70-150, noise of 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array = np.ndarray
Form = Callable[[Array, Array], Array]

SMALLEST, LARGEST = 20 / 96, 50 / 96  # an object's size, as a fraction of the image
CONTRAST, FAINT_CONTRAST = (70.0, 150.0), (28.0, 45.0)  # RGB distance to what lies behind, of 255
FAINT_SHARE = 0.05  # of the objects; they are marked difficult
TEXTURE, NOISE = 6.0, 2.0  # amplitude and standard deviation, of 255
CLEARLY_VISIBLE, LEAST_VISIBLE = 0.7, 0.5  # less visible: marked difficult; never drawn so


def polygon(*corners: tuple[float, float]) -> Form:
    """Signed distance to a closed polygon, negative inside."""

    def distance(x: Array, y: Array) -> Array:
        nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, dtype=bool)
        for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
            along_x, along_y = x2 - x1, y2 - y1
            share = (((x - x1) * along_x + (y - y1) * along_y) / (along_x**2 + along_y**2)).clip(0, 1)
            nearest = np.minimum(nearest, np.hypot(x - x1 - share * along_x, y - y1 - share * along_y))
            crosses = (y1 > y) != (y2 > y)
            if along_y:
                inside ^= crosses & (x < x1 + (y - y1) * along_x / along_y)
        return np.where(inside, -nearest, nearest)

    return distance


def star(points: int, inner: float) -> Form:
    angles = np.pi * np.arange(2 * points) / points
    radii = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return polygon(*((float(r * np.sin(a)), float(-r * np.cos(a))) for r, a in zip(radii, angles, strict=True)))


# Signed distances in a frame where an object reaches from about -1 to 1; y points down. Alphabetical: the class order.
FORMS: dict[str, Form] = {
    "cross": polygon(
        (-0.34, -1.0), (0.34, -1.0), (0.34, -0.34), (1.0, -0.34), (1.0, 0.34), (0.34, 0.34),
        (0.34, 1.0), (-0.34, 1.0), (-0.34, 0.34), (-1.0, 0.34), (-1.0, -0.34), (-0.34, -0.34),
    ),
    "disc": lambda x, y: np.hypot(x, y) - 1.0,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.74) - 0.26,
    "square": polygon((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "star": star(5, 0.42),
    "triangle": polygon((0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)),
}  # fmt: skip

# Signs of each class's texture at pixel (x, y); with a random phase, a flipped image has the textures of its classes.
TEXTURES: list[Callable[[Array, Array], Array]] = [
    lambda x, y: x % 2,
    lambda x, y: y % 2,
    lambda x, y: (x + y) % 2,
    lambda x, y: x // 2 % 2,
    lambda x, y: y // 2 % 2,
    lambda x, y: (x // 2 + y // 2) % 2,
]


@dataclass(frozen=True)
class Scene:
    """``boxes`` are xyxy whole pixels of the drawn outline, hidden parts included; ``areas`` count its pixels."""

    image: UInt8[np.ndarray, "S S 3"]
    boxes: Int[np.ndarray, "N 4"]
    labels: Int[np.ndarray, "N"]
    difficult: Bool[np.ndarray, "N"]
    areas: Int[np.ndarray, "N"]


@dataclass
class _Canvas:
    """Pixels so far (0..255, not yet rounded), and per object its outline and what is left of it to see."""

    pixels: Float[np.ndarray, "S S 3"]
    outlines: list[Array] = field(default_factory=list)
    visible: list[Array] = field(default_factory=list)

    def paint(self, alpha: Array, colour: Array) -> None:
        self.pixels += alpha[..., None] * (colour - self.pixels)
        self.visible = [mask & (alpha < 0.5) for mask in self.visible]

    def visible_shares(self, under: Array | None = None) -> list[float]:
        hidden = np.zeros(self.pixels.shape[:2], dtype=bool) if under is None else under
        return [
            float((mask & ~hidden).sum() / outline.sum())
            for mask, outline in zip(self.visible, self.outlines, strict=True)
        ]


def draw_scene(rng: np.random.Generator, size: int = 96) -> Scene:
    """Draw 1-4 objects and 1-3 pieces of clutter, some of it across the objects, on size x size pixels."""
    canvas = _Canvas(_background(rng, size))
    clutter = [rng.random() < 0.5 for _ in range(rng.integers(1, 4))]  # in front of the objects?
    for _ in range(clutter.count(False)):
        _draw_clutter(rng, canvas)
    labels, faint = [], []
    for _ in range(rng.integers(1, 5)):
        label = int(rng.integers(len(FORMS)))
        if (outline := _place(rng, canvas, list(FORMS.values())[label])) is not None:
            faint.append(bool(rng.random() < FAINT_SHARE))
            labels.append(label + 1)
            _draw_object(rng, canvas, outline, label, FAINT_CONTRAST if faint[-1] else CONTRAST)
    for _ in range(clutter.count(True)):
        _draw_clutter(rng, canvas)
    pixels = canvas.pixels + rng.normal(0.0, NOISE, canvas.pixels.shape)
    hidden = np.array(canvas.visible_shares()) < CLEARLY_VISIBLE
    return Scene(
        np.rint(pixels.clip(0, 255)).astype(np.uint8),
        np.array([_bounds(outline) for outline in canvas.outlines]),
        np.array(labels),
        hidden | np.array(faint),
        np.array([int(outline.sum()) for outline in canvas.outlines]),
    )


def _grid(size: int) -> tuple[Array, Array]:
    """Coordinates (x, y) of the pixels' centres."""
    y, x = np.mgrid[:size, :size]
    return x + 0.5, y + 0.5


def _background(rng: np.random.Generator, size: int) -> Array:
    """A colour, a gradient across it, and one of: stripes, checks, soft blobs. Coarser than any class's texture."""
    x, y = _grid(size)
    angle, period = rng.uniform(0, np.pi), rng.uniform(7.0, 20.0)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    stripes, across = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    pattern = [stripes, stripes * across, _blobs(rng, size)][rng.integers(3)]
    gradient = (u - u.mean()) / size
    weights = rng.uniform(-1, 1, (2, 3)) * [[50.0], [22.0]]
    return rng.uniform(60, 195, 3) + gradient[..., None] * weights[0] + pattern[..., None] * weights[1]


def _blobs(rng: np.random.Generator, size: int, cells: int = 7) -> Array:
    """Values of a coarse random grid, interpolated linearly, in [-1, 1]."""
    values, at = rng.uniform(-1, 1, (cells, cells)), np.linspace(0, cells - 1, size)
    low = np.minimum(at.astype(int), cells - 2)
    share = at - low
    rows = values[low] * (1 - share)[:, None] + values[low + 1] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, low + 1] * share


def _place(rng: np.random.Generator, canvas: _Canvas, form: Form, tries: int = 20) -> Array | None:
    """An outline's coverage [S, S] in 0..1 at a free enough place, or None: nobody may be hidden too far."""
    size = len(canvas.pixels)
    x, y = _grid(size)
    for _ in range(tries):
        half = rng.uniform(SMALLEST, LARGEST) * size / 2
        stretch, angle = np.exp(rng.uniform(-0.2, 0.2)), rng.uniform(-0.35, 0.35)
        centre = rng.uniform(half, size - half, 2)
        u = ((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) / half * stretch
        v = ((y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)) / half / stretch
        coverage, near = np.zeros_like(u), np.maximum(np.abs(u), np.abs(v)) < 1.2
        coverage[near] = (0.5 - form(u[near], v[near]) * half).clip(0, 1)
        mask = coverage >= 0.5
        overlap = max((float((mask & other).sum() / mask.sum()) for other in canvas.outlines), default=0.0)
        if overlap < 1 - LEAST_VISIBLE and min(canvas.visible_shares(mask), default=1.0) >= LEAST_VISIBLE:
            return coverage
    return None


def _draw_object(
    rng: np.random.Generator, canvas: _Canvas, coverage: Array, label: int, contrast: tuple[float, float]
) -> None:
    size, mask = len(canvas.pixels), coverage >= 0.5
    x, y = np.mgrid[:size, :size][::-1] + rng.integers(0, 4, (2, 1, 1))
    texture = TEXTURE * (2.0 * TEXTURES[label](x, y) - 1.0)
    shading = 8.0 * _blobs(rng, size, 3)
    colour = _contrasting(rng, canvas.pixels[mask].mean(axis=0), rng.uniform(*contrast))
    canvas.paint(coverage, colour + (shading + texture)[..., None])
    canvas.outlines.append(mask)
    canvas.visible.append(mask)


def _contrasting(rng: np.random.Generator, behind: Array, contrast: float) -> Array:
    """A colour at this RGB distance, inside 15..240 on every channel where some direction allows it."""
    directions = rng.normal(size=(64, 3))
    colours = behind + contrast * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    outside = np.maximum(15 - colours, colours - 240).max(axis=1)
    return colours[int(np.argmax(outside <= 0))] if (outside <= 0).any() else colours[int(np.argmin(outside))]


def _draw_clutter(rng: np.random.Generator, canvas: _Canvas) -> None:
    """A thin bar, a thin arc or a handful of dots: things that are no class."""
    size = len(canvas.pixels)
    x, y = _grid(size)
    centre, angle, half_width = rng.uniform(0, size, 2), rng.uniform(0, np.pi), rng.uniform(0.6, 1.8)
    kind = rng.integers(3)
    if kind == 0:
        u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
        v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
        distance = np.maximum(np.abs(u) - rng.uniform(0.15, 0.4) * size, np.abs(v) - half_width)
    elif kind == 1:
        ring = np.abs(np.hypot(x - centre[0], y - centre[1]) - rng.uniform(0.3, 0.7) * size) - half_width
        distance = np.maximum(ring, (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle))
    else:
        dots = centre + rng.normal(0, 0.12 * size, (int(rng.integers(3, 8)), 2))
        distance = np.min([np.hypot(x - a, y - b) for a, b in dots], axis=0) - half_width - 0.7
    coverage = (0.5 - distance).clip(0, 1)
    behind = canvas.pixels[coverage > 0].mean(axis=0) if (coverage > 0).any() else canvas.pixels.mean(axis=(0, 1))
    canvas.paint(coverage, _contrasting(rng, behind, rng.uniform(50, 130)))


def _bounds(mask: Array) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
