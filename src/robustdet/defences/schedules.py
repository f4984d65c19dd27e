"""Where the adversarial half of a training batch comes from.

``Full``: a fresh attack for every weight update. ``Replay``: the published code's way, one attack step per weight
update; an adversarial source batch is kept for as many updates as the attack has steps, and the weights learn from
every iterate on the way. Replay costs one attack step an update instead of twenty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from robustdet.attacks.base import require_attack, require_stepwise
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import pixel_fraction
from robustdet.attacks.victim import DetectorVictim
from robustdet.types import Assignment, Attack, Batch, Detector, Images


@dataclass(frozen=True)
class AdversarialBatch:
    """Attacked images with the clean images they were made from, in the same order."""

    images: Images
    source: Batch


@runtime_checkable
class Schedule(Protocol):
    def next(self, model: Detector, batch: Batch, generator: torch.Generator) -> AdversarialBatch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


class Full:
    """A fresh attack on the current batch for every update: ``attack`` with all its steps."""

    def __init__(self, attack: Attack) -> None:
        self.attack = require_attack(attack)

    def next(self, model: Detector, batch: Batch, generator: torch.Generator) -> AdversarialBatch:
        generators = image_generators(draw_seed(generator), [target.image_id for target in batch.targets])
        images = self.attack(DetectorVictim(model), batch.images, batch.targets, generators)
        return AdversarialBatch(images, batch)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Replay:
    """One step of ``attack`` per update on a source batch that is kept for ``updates_per_source`` updates.

    ``step_sizes`` (pixel fractions such as "2/255"): one is drawn per source batch, so that a discriminator cannot
    learn the signature of a single step size. The first iterate of a source starts from its clean images.
    """

    def __init__(self, attack: Attack, updates_per_source: int, step_sizes: Sequence[float | str]) -> None:
        if updates_per_source < 1:
            raise ValueError(f"updates_per_source is {updates_per_source}, expected 1 or more")
        self.attack = require_stepwise(attack, "the schedule `replay`")
        self.updates_per_source = updates_per_source
        self.step_sizes = [pixel_fraction(size) for size in step_sizes]
        self._source: Batch | None = None
        self._assignment: Assignment | None = None  # of the source's targets, matched once for all its updates
        self._iterate: Tensor | None = None
        self._step_size = 0.0
        self._updates = 0

    def next(self, model: Detector, batch: Batch, generator: torch.Generator) -> AdversarialBatch:
        if self._source is None or self._iterate is None or self._updates == self.updates_per_source:
            self._source, self._assignment, self._iterate, self._updates = batch, None, batch.images, 0
            choice = int(torch.randint(len(self.step_sizes), (), generator=generator))
            self._step_size = self.step_sizes[choice]
        source = self._source
        if self._assignment is None:
            self._assignment = model.assign(source.targets)
        with DetectorVictim(model).borrow(source.targets, self._assignment) as victim:
            self._iterate = self.attack.step(victim, self._iterate, source.images, self._step_size)
        self._updates += 1
        return AdversarialBatch(self._iterate, source)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that a checkpoint loads with weights-only unpickling."""
        source = self._source
        return {
            "iterate": self._iterate,
            "step_size": self._step_size,
            "updates": self._updates,
            "source": None if source is None else source.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._assignment = None
        self._iterate = state["iterate"]
        self._step_size = state["step_size"]
        self._updates = state["updates"]
        self._source = None if state["source"] is None else Batch.from_state(state["source"])
