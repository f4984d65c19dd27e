"""Detectors that no run of ours has made: what the commands ask of one in place of a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from robustdet.errors import InputError


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

    @classmethod
    def kind(cls, name: str) -> type[ForeignDetector]:
        """The class of the one called ``name``: it tells what that one offers, without building it."""
        return cls

    def learn(self, classes: Sequence[str]) -> None:
        """Made ready for training on data with these classes. Raises InputError where it has as many as it has."""
        if self.num_classes != len(classes) or (self.classes is not None and list(self.classes) != list(classes)):
            own = self.num_classes if self.classes is None else ", ".join(self.classes)
            raise InputError(f"{self.name} knows the classes {own}, the data have {', '.join(classes)}")
