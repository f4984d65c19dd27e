"""Detectors that no run of ours has made: what the commands ask of one in place of a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn


class ForeignDetector(nn.Module):
    """Comes as it is to be evaluated: trained by somebody else, whatever it is made of.

    A subclass is a `robustdet.types.Detector` and offers what it can. It is built with ``num_classes`` of the data at
    hand, which one that knows its ``classes`` passes over: who evaluates it compares the names.
    """

    name: str  # as records call it
    classes: Sequence[str] | None = None  # of labels 1..C; None: those of the data
    file: Path | None = None  # of its weights; None where there is none, or they are random
    num_classes: int
    input_size: int
