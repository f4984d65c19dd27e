"""Interleaved timing: what is compared takes turns, so that a busy machine slows all of it alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Work = Callable[[], object]


def interleaved(works: Mapping[str, Work], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, over ``repeats`` rounds in which each runs once; one more round first warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            elapsed = clock(work, device)
            if turn:
                seconds[name].append(elapsed)
    return {name: median(values) for name, values in seconds.items()}


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
