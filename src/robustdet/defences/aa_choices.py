"""Which execution of an adversarially-aware convolution is the fastest where: what was measured, as data.

The file beside this one has it by kind of device. `python -m benchmarks --only layers` measures every layer of a
network and writes such a file; put in this one's place, it is what ``auto`` chooses by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from robustdet.files import write_text

FILE = Path(__file__).with_name("aa_choices.json")
OTHERS = "cuda"  # every device but a CPU


@dataclass(frozen=True)
class Choices:
    """Of one kind of device.

    Args:
        measured_on: the machine; None where nobody has measured, and all of this is assumed.
        basis_work: up to so many output cells of an image times K, K convolutions cost less than mixing its kernel.
        grouped_cells: up to so many input cells of an image, all images' channels together are faster than one image
            after the other; None: always.
        block: that holds at numbers of channels that this divides.
        mixed_bytes: of a layer's mixed kernels at one time; images beyond that go in chunks. None: no limit.
        layers: the fastest execution by `AAConv2d.signature`; goes before all rules.
    """

    measured_on: str | None
    basis_work: int
    grouped_cells: int | None
    block: int
    mixed_bytes: int | None
    layers: Mapping[str, str] = field(default_factory=dict)

    def measured(self, machine: str, layers: Mapping[str, str]) -> Choices:
        """With these layers as they were measured on ``machine``; of others measured before, what it had."""
        return replace(self, measured_on=machine, layers={**self.layers, **layers})


def read(file: Path = FILE) -> dict[str, Choices]:
    """By kind of device."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {kind: Choices(**said) for kind, said in content.items()}


def write(choices: Mapping[str, Choices], file: Path) -> None:
    write_text(file, json.dumps({kind: asdict(one) for kind, one in choices.items()}, indent=2) + "\n")


CHOICES = read()


def choices_on(kind: str) -> Choices:
    """``kind`` is a device's type."""
    return CHOICES[kind if kind in CHOICES else OTHERS]
