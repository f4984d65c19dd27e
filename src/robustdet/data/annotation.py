"""What a reader hands over: the objects of one image as they are in its file, before any resizing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int64

from robustdet.data.problems import Problems

Split = Literal["train", "val", "test"]
TOLERANCE = 1.0  # pixels by which a box may leave its image without a word: VOC counts from 1, and tools round


@dataclass(frozen=True, eq=False)
class Annotation:
    """One image and its objects.

    ``boxes`` are xyxy in pixels of the file, upper edge exclusive: a box from the first to the last pixel of a
    640 x 480 image is (0, 0, 640, 480). ``labels`` are 1..C, ``size`` is (height, width).
    """

    image_path: Path
    image_id: str
    size: tuple[int, int]
    boxes: Float32[np.ndarray, "N 4"]
    labels: Int64[np.ndarray, "N"]
    difficult: Bool[np.ndarray, "N"]
    crowd: Bool[np.ndarray, "N"]
    dropped: int = 0  # objects that the file has beyond these: without area, or with a fault

    @property
    def is_annotated(self) -> bool:
        """Whether the file says anything of the image, be it a crowd, or an object that was dropped."""
        return len(self.labels) + self.dropped > 0

    @property
    def is_learnable(self) -> bool:
        """Whether any object may be a training target: SSD has no loss on an image without one."""
        return bool((~(self.difficult | self.crowd)).any())


class DataSource(Protocol):
    """A data set on disk. ``annotations`` of a split that it does not have are None."""

    name: str  # the folder's own name, so that a number on a subset is never taken for one on the original
    metric: Literal["voc", "coco", "area"]  # whose AP is the headline

    @property
    def classes(self) -> list[str]: ...

    @property
    def test_split(self) -> str: ...

    def prepare(self) -> None:
        """Make the files exist: draw, download, or raise an error that says how to get them."""

    def annotations(self, split: Split, problems: Problems | None = None) -> list[Annotation] | None:
        """The sound images of a split with their sound objects; the rest is told to ``problems``.

        Without ``problems`` any fault is an InputError.
        """
        ...


@dataclass(frozen=True)
class Object:
    """One object on its way from a file: its box as `Annotation` has it, before it is judged."""

    record: str  # "object 3 of image im00"
    written: dict[str, Any]  # the fields of its box, as the file has them
    box: tuple[float, float, float, float]
    label: int
    difficult: bool = False
    crowd: bool = False


def annotate(
    image_path: Path,
    image_id: str,
    size: tuple[int, int],
    objects: Sequence[Object | None],
    source: Path | str,
    problems: Problems,
) -> Annotation:
    """Clip boxes to the image and leave out those that nothing after this could use; all of it is told to ``problems``.

    What is judged is what is kept, float32 after clipping: a box has at least `least_side` in both directions. One
    without area can neither be learnt nor found, and makes SSD's encoding infinite. ``source`` is the annotation file.
    ``objects`` has None for each of them whose fault is told already.
    """
    height, width = size
    faulty = sum(one is None for one in objects)
    sound = [one for one in objects if one is not None]
    edges = np.array([one.box for one in sound], dtype=np.float64).reshape(-1, 4)
    clipped = edges.clip(0, [width, height, width, height]).astype(np.float32)
    has_area = np.all(clipped[:, 2:] - clipped[:, :2] >= [least_side(width), least_side(height)], axis=1)
    in_order = np.all(np.isfinite(edges), axis=1) & np.all(edges[:, 2:] >= edges[:, :2], axis=1)
    inside = f"within 0..{width} x 0..{height} pixels"
    kept = has_area & in_order
    for index in np.flatnonzero(~kept):
        one = sound[index]
        if in_order[index]:
            problems.add(source, one.record, "its box", one.written, f"an area {inside}: it is dropped", notice=True)
        else:
            problems.add(source, one.record, "its box", one.written, "numbers, the lower edge before the upper")
    for index in np.flatnonzero(kept & np.any(np.abs(edges - clipped) > TOLERANCE, axis=1)):
        one = sound[index]
        problems.add(source, one.record, "its box", one.written, f"edges {inside}: it is clipped", notice=True)
    return Annotation(
        image_path,
        image_id,
        size,
        clipped[kept],
        np.array([one.label for one in sound], dtype=np.int64)[kept],
        np.array([one.difficult for one in sound], dtype=np.bool_)[kept],
        np.array([one.crowd for one in sound], dtype=np.bool_)[kept],
        dropped=faulty + int((~kept).sum()),
    )


def least_side(extent: int) -> float:
    """Of a box in an image of so many pixels: a hundredth of a pixel, and some dozen steps of float32 at its far edge.

    Less would not survive scaling in float32, which augmentation and resizing do.
    """
    return max(0.01, extent * 2.0**-18)


def are_fractions(*edges: float) -> bool:
    """Whether edges as they are written are fractions of the image: in 0..1, and not the corner pixel's 0 and 1."""
    return all(0 <= edge <= 1 for edge in edges) and any(edge not in (0, 1) for edge in edges)


def unknown(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest right name, and all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    return (f" Did you mean {nearest[0]!r}?" if nearest else "") + f" Known: {', '.join(names)}."
