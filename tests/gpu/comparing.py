"""What a device computed against what the CPU did, within a stated tolerance, and against a wrong result beyond it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Results = Mapping[str, Tensor]


@dataclass(frozen=True)
class Compared:
    """One comparison. ``difference`` is that of the device, ``wrong`` that of a result which must not pass."""

    kind: str
    name: str
    difference: float
    tolerance: float
    wrong: float

    @property
    def trouble(self) -> str | None:
        """What is not as it has to be; a comparison that a wrong result passes shows nothing."""
        if not self.difference <= self.tolerance:  # NaN too
            return f"{self.kind} {self.name}: differs by {self.difference:.2g}, expected at most {self.tolerance:.2g}"
        if not self.wrong > self.tolerance:
            return f"{self.kind} {self.name}: a wrong result differs by {self.wrong:.2g} only: nothing is shown"
        return None


def difference(reference: Results, found: Results) -> float:
    """The largest over all tensors, each relative to its largest value; infinite for other names, shapes or NaN."""
    if reference.keys() != found.keys():
        return float("inf")
    worst = 0.0
    for name, expected in reference.items():
        expected, value = expected.detach().double().cpu(), found[name].detach().double().cpu()
        if expected.shape != value.shape or not value.isfinite().all():
            return float("inf")
        if expected.numel():
            worst = max(worst, float((expected - value).abs().max() / expected.abs().max().clamp(min=1e-12)))
    return worst


def unequal_share(reference: Tensor, found: Tensor, step: float = 1e-4) -> float:
    """The share of pixels that are not the same within ``step``; infinite for another shape or NaN."""
    reference, found = reference.double().cpu(), found.double().cpu()
    if reference.shape != found.shape or not found.isfinite().all():
        return float("inf")
    return float(((reference - found).abs() > step).double().mean())


@dataclass(frozen=True)
class Comparisons:
    """Where comparisons are written, one JSON line each, at once: a run that is cut off leaves them."""

    file: Path | None

    def trouble(self, kind: str, name: str, difference: float, tolerance: float, wrong: float) -> str | None:
        """What is not as it has to be in this comparison, which is written down."""
        compared = Compared(kind, name, difference, tolerance, wrong)
        self.note(asdict(compared) | {"trouble": compared.trouble})
        return compared.trouble

    def trouble_of(
        self, kind: str, name: str, reference: Results, found: Results, wrong: Results, tolerance: float
    ) -> str | None:
        return self.trouble(kind, name, difference(reference, found), tolerance, difference(reference, wrong))

    def observe(self, kind: str, name: str, text: str) -> None:
        """Something measured that nothing is asked of."""
        self.note({"kind": kind, "name": name, "observed": text})

    def note(self, line: Mapping[str, Any]) -> None:
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def wrong_by(factor: float, model: Any) -> Any:
    """A copy, whose first convolution, on which all depends, says ``factor`` times what it should."""
    disturbed = copy.deepcopy(model)
    first = next(parameter for parameter in disturbed.parameters() if parameter.dim() >= 4)
    with torch.no_grad():
        first.mul_(factor)
    return disturbed
