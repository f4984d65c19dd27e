"""Attacks on detectors that route images (RobustDet), made for them: the discriminator is fooled, or taken out of play.

An attack that ignores how a defence works says little about it (Tramèr et al., NeurIPS 2020, arXiv 2002.08347).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.threat import Threat, check_images
from robustdet.attacks.victim import Altered, require_detector
from robustdet.types import (
    Attack,
    BorrowedDetector,
    BorrowedVictim,
    Images,
    Targets,
    Victim,
)


@runtime_checkable
class RoutedDetector(BorrowedDetector, Protocol):
    """A borrowed detector whose predictions carry ``routing`` π [B, K], and which can be told to use another π."""

    def predict(self, images: Images, routing: Float[Tensor, "B K"] | None = None) -> Any: ...


@runtime_checkable
class Routing(Protocol):
    """The π to predict with, given the images and a reference π; None: the discriminator's own, differentiated."""

    def __call__(
        self, model: RoutedDetector, images: Images, reference: Float[Tensor, "B K"], /
    ) -> Float[Tensor, "B K"] | None: ...


def own(model: RoutedDetector, images: Images, reference: Float[Tensor, "B K"]) -> None:
    """The discriminator's own π: the victim as it is."""


def detached(model: RoutedDetector, images: Images, reference: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The discriminator's own π, but no gradient passes through it: does it hide, or mislead, the rest's gradient?"""
    with torch.no_grad():
        return model.predict(images).routing


def frozen(model: RoutedDetector, images: Images, reference: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The reference π, throughout."""
    return reference


def uniform(model: RoutedDetector, images: Images, reference: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The same weight for every kernel."""
    return torch.full_like(reference, 1 / reference.shape[1])


class OneHot:
    """One ``kernel`` alone, counted from 0."""

    def __init__(self, kernel: int) -> None:
        self.kernel = kernel

    def __call__(self, model: RoutedDetector, images: Images, reference: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        num_kernels = reference.shape[1]
        if not 0 <= self.kernel < num_kernels:
            raise ValueError(f"the victim has kernels 0 to {num_kernels - 1}, the attack wants kernel {self.kernel}")
        return torch.eye(num_kernels).to(reference)[self.kernel].expand_as(reference)


class Adaptive:
    """Runs ``attack`` on the victim with another ``routing``; what it finds is meant for the victim as it is.

    The reference π is that of the clean images or, with ``source``, that of the images which this attack makes. An
    objective finds it in the borrowed model as ``reference`` (see `FoolDiscriminator`).
    """

    sees = "discriminator"

    def __init__(self, attack: Attack, routing: Routing = own, source: Attack | None = None) -> None:
        self.attack = attack
        self.routing = routing
        self.source = source

    @property
    def threat(self) -> Threat:
        """That of the attack."""
        return self.attack.threat  # type: ignore[attr-defined]

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        shown = images if self.source is None else self.source(victim, images, targets, generators)
        with victim.borrow(targets) as model, torch.no_grad():
            raw = require_detector(model, "an adaptive attack").predict(shown)
            if not hasattr(raw, "routing"):
                raise TypeError(
                    "an adaptive attack needs a victim that routes its images, such as RobustSSD: its predictions "
                    f"({type(raw).__name__}) lack routing"
                )
        return self.attack(_ReroutedVictim(victim, self.routing, raw.routing), images, targets, generators)


class FoolDiscriminator:
    """Raises the loss while the discriminator is made to take the image for the clean one; to be run by `Adaptive`.

    The whole loss per positive default box - ``weight`` · KL(π of the reference ‖ π). Unlike the Jensen-Shannon
    divergence, this one pulls however far the two are apart, as long as π stays above float32's smallest normal number,
    e⁻⁸⁷: a discriminator more certain than that gives no gradient. An image without objects is left alone.
    """

    def __init__(self, weight: float | int = 1.0) -> None:
        self.weight = weight

    def __call__(self, model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
        if not isinstance(model, _Rerouted):
            raise TypeError(
                f"FoolDiscriminator needs a reference π: run its attack inside Adaptive, got {type(model).__name__}"
            )
        raw = model.predict(images)
        losses = model.losses_of(raw)
        distance = kl_divergence(model.reference, raw.routing) * (losses.num_positives > 0)
        return losses.each_per_positive(losses.total) - self.weight * distance


def kl_divergence(p: Float[Tensor, "B K"], q: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
    """Σ p log(p / q), natural logarithm; probabilities below the smallest normal number count as that number.

    They have no gradient, then: only π is known here, not the logits behind it.
    """
    tiny = torch.finfo(p.dtype).tiny
    return (p * (p.clamp(min=tiny).log() - q.clamp(min=tiny).log())).sum(dim=1)


@dataclass
class _ReroutedVictim:
    victim: Victim
    routing: Routing
    reference: Float[Tensor, "B K"]

    @contextmanager
    def borrow(self, targets: Targets) -> Iterator[BorrowedDetector]:
        with self.victim.borrow(targets) as model:
            yield _Rerouted(cast(RoutedDetector, model), self.routing, self.reference)


class _Rerouted(Altered):
    model: RoutedDetector

    def __init__(self, model: RoutedDetector, routing: Routing, reference: Float[Tensor, "B K"]) -> None:
        super().__init__(model)
        self.routing = routing
        self.reference = reference

    def predict(self, images: Images) -> Any:
        return self.model.predict(images, self.routing(self.model, images, self.reference))
