"""Where the adversarial half of a training batch comes from.

``Full``: a fresh attack for every weight update. ``Replay``: the published code's way, one attack step per weight
update; an adversarial source batch is kept for as many updates as the attack has steps, and the weights learn from
every iterate on the way. Replay costs one attack step an update instead of twenty.
Either may begin with a warm-up of ε (`EpsilonWarmup`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from robustdet.attacks.base import require_attack, require_stepwise
from robustdet.attacks.randomness import draw_seed, image_generators
from robustdet.attacks.threat import PixelFraction, pass_unseen, pixel_fraction
from robustdet.attacks.victim import DetectorVictim
from robustdet.defences.epsilon_warmup import EpsilonWarmup
from robustdet.errors import InputError
from robustdet.types import Attack, Batch, HasLosses, Images


@dataclass(frozen=True)
class AdversarialBatch:
    """Attacked images with the clean images they were made from, in the same order."""

    images: Images
    source: Batch


@runtime_checkable
class Schedule(Protocol):
    def next(self, model: HasLosses, batch: Batch, generator: torch.Generator) -> AdversarialBatch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Full:
    """A fresh attack on the current batch for every update: ``attack`` with all its steps."""

    def __init__(self, attack: Attack, epsilon_warmup: int = 0) -> None:
        self.attack = require_attack(attack)
        self.warmup = EpsilonWarmup(attack, epsilon_warmup)
        self._update = 0

    def next(self, model: HasLosses, batch: Batch, generator: torch.Generator) -> AdversarialBatch:
        self._update += batch.micro_batch == 0
        generators = image_generators(draw_seed(generator), [target.image_id for target in batch.targets])
        attack = self.warmup.within(self.attack, self._update)
        if batch.images.device.type != "cpu":  # the detector has looked at its first batch, and losses are watched
            pass_unseen(batch.images)
        images = attack(DetectorVictim(model), batch.images, batch.targets, generators)
        return AdversarialBatch(images, batch)

    def state_dict(self) -> dict[str, Any]:
        return {"update": self._update}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._update = state["update"]


@dataclass
class _Source:
    """A batch on its way: its clean images, the iterate that the attack has reached, and by which steps."""

    batch: Batch
    iterate: Images
    step_size: float
    updates: int = 0
    assignment: Any = None  # of its targets, matched once for all its updates

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that a checkpoint loads with weights-only unpickling."""
        return {
            "batch": self.batch.state_dict(),
            "iterate": self.iterate,
            "step_size": self.step_size,
            "updates": self.updates,
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> _Source:
        return cls(Batch.from_state(state["batch"]), state["iterate"], state["step_size"], state["updates"])


class Replay:
    """One step of ``attack`` per weight update on a source batch that is kept for ``updates_per_source`` updates.

    ``step_sizes`` (pixel fractions such as "2/255"): one is drawn per source batch, so that a discriminator cannot
    learn the signature of a single step size. The first iterate of a source starts from its clean images.

    Where several micro-batches make one update, each has a source of its own, as it would be of one large batch: an
    update moves every source by one step.
    """

    def __init__(
        self, attack: Attack, updates_per_source: int, step_sizes: Sequence[PixelFraction], epsilon_warmup: int = 0
    ) -> None:
        if updates_per_source < 1:
            raise InputError(f"updates_per_source is {updates_per_source}, expected 1 or more")
        self.attack = require_stepwise(attack, "the schedule `replay`")
        self.warmup = EpsilonWarmup(attack, epsilon_warmup)
        self.updates_per_source = updates_per_source
        self.step_sizes = [pixel_fraction(size) for size in step_sizes]
        self._sources: dict[int, _Source] = {}  # by the place of their micro-batch in an update
        self._update = 0

    def next(self, model: HasLosses, batch: Batch, generator: torch.Generator) -> AdversarialBatch:
        self._update += batch.micro_batch == 0
        source = self._sources.get(batch.micro_batch)
        if source is None or source.updates == self.updates_per_source:
            choice = int(torch.randint(len(self.step_sizes), (), generator=generator))
            source = _Source(batch, batch.images, self.step_sizes[choice])
            self._sources[batch.micro_batch] = source
        if source.assignment is None:
            source.assignment = model.assign(source.batch.targets)
        with DetectorVictim(model).borrow(source.batch.targets, source.assignment) as victim:
            attack = self.warmup.within(self.attack, self._update)
            source.iterate = attack.step(victim, source.iterate, source.batch.images, source.step_size)
        source.updates += 1
        return AdversarialBatch(source.iterate, source.batch)

    def state_dict(self) -> dict[str, Any]:
        return {"update": self._update, "sources": [source.state_dict() for source in self._sources.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._update = state["update"]
        sources = [_Source.of(each) for each in state["sources"]]
        self._sources = {source.batch.micro_batch: source for source in sources}
