"""Attacks on detectors that route images (RobustDet), made for them: the discriminator is fooled, or taken out of play.

An attack that ignores how a defence works says little about it (Tramèr et al., NeurIPS 2020, arXiv 2002.08347).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.base import BaseAttack, require_attack
from robustdet.attacks.threat import check_images
from robustdet.attacks.victim import Alteration, Forward, require_detector, require_detector_victim
from robustdet.errors import InputError, KindError
from robustdet.types import Attack, BorrowedVictim, Images, Knowledge, Objective, Offer, Targets, Victim, most


@runtime_checkable
class Routing(Protocol):
    """The π to predict with, given the victim's forward pass, the images and a reference π; None: its own."""

    def __call__(
        self, forward: Forward, images: Images, reference: Float[Tensor, "B K"], /
    ) -> Float[Tensor, "B K"] | None: ...


def own(forward: Forward, images: Images, reference: Float[Tensor, "B K"]) -> None:
    """The discriminator's own π: the victim as it is."""


def detached(forward: Forward, images: Images, reference: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The discriminator's own π, but no gradient passes through it: does it hide, or mislead, the rest's gradient?"""
    with torch.no_grad():
        return routing_of(forward(images), "an adaptive attack")


def frozen(forward: Forward, images: Images, reference: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The reference π, throughout."""
    return reference


def uniform(forward: Forward, images: Images, reference: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The same weight for every kernel."""
    return torch.full_like(reference, 1 / reference.shape[1])


class OneHot:
    """One ``kernel`` alone, counted from 0."""

    def __init__(self, kernel: int) -> None:
        self.kernel = kernel

    def __call__(self, forward: Forward, images: Images, reference: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        num_kernels = reference.shape[1]
        if not 0 <= self.kernel < num_kernels:
            raise InputError(f"the victim has kernels 0 to {num_kernels - 1}, the attack wants kernel {self.kernel}")
        one_hot = torch.eye(num_kernels, dtype=reference.dtype, device=reference.device)
        return one_hot[self.kernel].expand_as(reference)


class Adaptive(BaseAttack):
    """Runs ``attack`` on the victim with another ``routing``; what it finds is meant for the victim as it is.

    The reference π is that of the clean images or, with ``source``, that of the images which this attack makes.
    """

    knowledge: Knowledge = "discriminator"

    def __init__(self, attack: Attack, routing: Routing = own, source: Attack | None = None) -> None:
        self.attack = require_attack(attack)
        self.threat = attack.threat
        self.objective = attack.objective if routing is own else None  # else it climbs on another victim
        self.routing = routing
        self.source = source

    @property
    def needs(self) -> Offer:
        """What the attacks in it need of a detector that routes."""
        return most(self.attack.needs, *([] if self.source is None else [self.source.needs]))

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        victim = require_detector_victim(victim, "an adaptive attack")
        shown = images if self.source is None else self.source(victim, images, targets, generators)
        with victim.borrow(targets) as model, torch.no_grad():
            reference = routing_of(model.predict(shown), "an adaptive attack")
        return self.attack(victim.altered(rerouted(self.routing, reference)), images, targets, generators)


def rerouted(rule: Routing, reference: Float[Tensor, "B K"]) -> Alteration:
    """Images are routed by ``rule``, but where a routing is asked for by name."""

    def how(forward: Forward) -> Forward:
        def other(images: Images, routing: Tensor | None = None, /) -> Any:
            return forward(images, rule(forward, images, reference) if routing is None else routing)

        return other

    return how


class FoolDiscriminator:
    """Raises the loss while the discriminator is made to take the image for the clean one.

    The whole loss per positive default box - ``weight`` · KL(π of the clean image ‖ π). Unlike the Jensen-Shannon
    divergence, this one pulls however far the two are apart, as long as π stays above float32's smallest normal number,
    e⁻⁸⁷: a discriminator more certain than that gives no gradient. An image without objects is left alone.
    """

    needs: Offer = "losses"

    def __init__(self, weight: float | int = 1.0) -> None:
        self.weight = weight

    def prepare(self, model: BorrowedVictim, clean: Images) -> Objective:
        reference = routing_of(require_detector(model, "FoolDiscriminator").predict(clean), "FoolDiscriminator")

        def objective(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
            detector = require_detector(model, "FoolDiscriminator")
            raw = detector.predict(images)
            losses = detector.losses_of(raw)
            distance = kl_divergence(reference, routing_of(raw, "FoolDiscriminator")) * (losses.num_positives > 0)
            return losses.each_per_positive(losses.total) - self.weight * distance

        return objective


def routing_of(raw: Any, attack: str) -> Float[Tensor, "B K"]:
    """π of a routed detector's predictions. Raises TypeError, naming the attack, where the detector does not route."""
    routing = getattr(raw, "routing", None)
    if routing is None:
        raise KindError(
            f"{attack} needs a victim that routes its images, such as RobustSSD: its predictions "
            f"({type(raw).__name__}) lack routing"
        )
    return routing


def kl_divergence(p: Float[Tensor, "B K"], q: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
    """Σ p log(p / q), natural logarithm; probabilities below the smallest normal number count as that number.

    They have no gradient, then: only π is known here, not the logits behind it.
    """
    tiny = torch.finfo(p.dtype).tiny
    return (p * (p.clamp(min=tiny).log() - q.clamp(min=tiny).log())).sum(dim=1)
