"""Interleaved timing: what is compared takes turns, so that a busy machine slows all of it alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, stdev

import torch

Work = Callable[[], object]


def turns(works: Mapping[str, Work], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each in ``repeats`` rounds in which each runs once; one more round first warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            elapsed = clock(work, device)
            if turn:
                seconds[name].append(elapsed)
    return seconds


def interleaved(works: Mapping[str, Work], repeats: int, device: torch.device) -> dict[str, float]:
    """The median seconds of each."""
    return {name: median(values) for name, values in turns(works, repeats, device).items()}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The median of the rounds' ratios, and its noise: half the width of its 95 % interval, as of a normal law."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return median(ratios), 1.96 * math.sqrt(math.pi / 2) * stdev(ratios) / math.sqrt(len(ratios))


def clock(work: Work, device: torch.device) -> float:
    """Seconds of one run, waiting for the device before and after."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
