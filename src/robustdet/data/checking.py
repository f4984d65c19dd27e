"""Looks at the image files of a data set before anybody is in the middle of using them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from robustdet.data.annotation import Annotation
from robustdet.data.pixels import require_pixels
from robustdet.data.problems import Fault, Problem, Problems
from robustdet.errors import MissingFileError


def with_sound_images(annotations: Sequence[Annotation], problems: Problems, decode: bool) -> list[Annotation]:
    """Those whose images can be read and have the annotated size; the others are told to ``problems``.

    Of a file the first and last bytes are read, and with ``decode`` all of it.
    """
    with ThreadPoolExecutor(available_cores()) as pool:
        found = list(pool.map(partial(fault, decode=decode), annotations))
    for problem in found:
        if problem is not None:
            problems.report(problem)
    return [annotation for annotation, problem in zip(annotations, found, strict=True) if problem is None]


def fault(annotation: Annotation, decode: bool) -> Problem | None:
    path = annotation.image_path
    try:
        stat = path.stat()
        return _fault(path, tuple(annotation.size), decode, stat.st_size, stat.st_mtime_ns)
    except (FileNotFoundError, MissingFileError):
        return Problem(str(path), "", "", "does not exist", "the image of the annotation")


@cache  # a command reads its data several times: to know what run it is, to train, to show pictures
def _fault(path: Path, size: tuple[int, int], decode: bool, length: int, changed: int) -> Problem | None:
    """``length`` in bytes and time of change are those of the file: one that was written anew is looked at again."""
    try:
        require_pixels(path, size, decode)
    except Fault as error:
        return error.problem
    return None


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
