"""What a reader hands over: the objects of one image as they are in its file, before any resizing."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int64

log = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]


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
    dropped: int = 0  # objects that the file has beyond these, because their boxes have no area

    @property
    def is_annotated(self) -> bool:
        """Whether the file says anything of the image, be it a crowd, or a box without area that was dropped."""
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

    def annotations(self, split: Split) -> list[Annotation] | None: ...


def annotate(
    image_path: Path,
    image_id: str,
    size: tuple[int, int],
    objects: Iterable[tuple[tuple[float, float, float, float], int, bool, bool]],
    source: Path | str,
) -> Annotation:
    """Assemble (box, label, difficult, crowd) records; clip boxes to the image and drop those without area.

    A box without area can neither be learnt nor found, and makes SSD's encoding infinite. It is dropped with a
    warning that names ``source`` (the annotation file) and the object's index.
    """
    height, width = size
    count = 0
    kept: list[tuple[tuple[float, float, float, float], int, bool, bool]] = []
    for count, (box, label, difficult, crowd) in enumerate(objects, start=1):
        x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
        if x2 > x1 and y2 > y1:
            kept.append(((x1, y1, x2, y2), label, difficult, crowd))
        else:
            log.warning(
                "%s: object %d of image %s is dropped: no area in %d x %d pixels, 0-based box (x1, y1, x2, y2) = %s",
                source, count - 1, image_id, width, height, tuple(float(edge) for edge in box),
            )  # fmt: skip
    return Annotation(
        image_path,
        image_id,
        size,
        np.array([record[0] for record in kept], dtype=np.float32).reshape(-1, 4),
        np.array([record[1] for record in kept], dtype=np.int64),
        np.array([record[2] for record in kept], dtype=bool),
        np.array([record[3] for record in kept], dtype=bool),
        dropped=count - len(kept),
    )


def unknown(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest right name, and all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    return (f" Did you mean {nearest[0]!r}?" if nearest else "") + f" Known: {', '.join(names)}."
