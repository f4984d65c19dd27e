"""Adversarial patches: a square of each image is the attacker's, all else stays (Brown et al., arXiv 1712.09665; of
detectors DPatch, Liu et al., SafeAI 2019, arXiv 1806.02299)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustdet.attacks.base import BaseAttack, require_count
from robustdet.attacks.objectives import prepared
from robustdet.attacks.placement import Placement
from robustdet.attacks.threat import Patch, PixelFraction, check_images, pixel_fraction
from robustdet.attacks.transformations import Transformations, paste, pasted
from robustdet.attacks.victim import input_gradient
from robustdet.errors import InputError
from robustdet.types import BorrowedVictim, Images, Knowledge, Objective, PreparedObjective, Targets, Victim

Update: TypeAlias = Literal["sign", "adam"]
DECAYS, TINY = (0.9, 0.999), 1e-12  # of Adam; gradients of a mean over pixels are small


class PatchAttack(BaseAttack):
    """A patch of its own for each image, by ``steps`` steps up ``objective``, at a place of ``placement``.

    It begins with random pixels, or with those that it hides (``random_start``: false). A step moves every value of the
    patch by ``step_size`` (a fraction of the pixel range) along the gradient's sign, or by Adam's rule; steps shrink to
    0 in the end, the last patch is the result, in 8 bits. With ``transformations`` each gradient is the mean over
    ``samples`` draws of them (expectation over transformations): a patch that does not rest on its exact place and
    light. It is pasted as it is.
    """

    objective: Objective | PreparedObjective
    threat: Patch

    def __init__(
        self,
        objective: Objective | PreparedObjective,
        threat: Patch,
        placement: Placement,
        steps: int,
        step_size: PixelFraction,
        update: Update = "sign",
        random_start: bool = True,
        transformations: Transformations | None = None,
        samples: int = 1,
    ) -> None:
        if samples < 1:
            raise InputError(f"expected one sample or more of the transformations, got samples={samples!r}")
        self.objective = placed(objective, placement, threat)
        self.threat = threat
        self.placement = placement
        self.steps = require_count("steps", steps)
        self.step_size = pixel_fraction(step_size)
        self.update: Update = update
        self.random_start = random_start
        self.transformations = transformations
        self.samples = samples

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        side = self.threat.side(*images.shape[-2:])
        corners = self.placement(targets, side, *images.shape[-2:])
        patches = random_patches(images, side, generators) if self.random_start else cut(images, corners, side)
        ascent = Ascent(self.update, self.step_size, self.steps)
        with victim.borrow(targets) as model:
            objective = prepared(self.objective, model, images)
            for _ in range(self.steps):
                patches = ascent.step(patches, self._gradient(objective, model, images, patches, corners, generators))
        return paste(images, in_8_bits(patches), corners)

    def _gradient(
        self,
        objective: Objective,
        model: BorrowedVictim,
        images: Images,
        patches: Float[Tensor, "B 3 S S"],
        corners: Int[Tensor, "B 2"],
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "B 3 S S"]:
        patches = patches.detach().requires_grad_()
        samples = 1 if self.transformations is None else self.samples
        total = torch.zeros_like(patches)
        for _ in range(samples):
            shown = pasted(images, patches, corners, self.transformations, generators)
            total += input_gradient(objective(model, shown), patches)
        return total / samples


class PlainPatch(BaseAttack):
    """A patch that nobody aimed: grey, or random pixels. What it costs, hiding costs; an attack has to cost more."""

    knowledge: Knowledge = "nothing"
    threat: Patch

    def __init__(self, threat: Patch, placement: Placement, content: Literal["grey", "random"] = "grey") -> None:
        self.threat = threat
        self.placement = placement
        self.content = content

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        side = self.threat.side(*images.shape[-2:])
        patches = random_patches(images, side, generators)
        if self.content == "grey":
            patches = torch.full_like(patches, 128 / 255)
        return paste(images, in_8_bits(patches), self.placement(targets, side, *images.shape[-2:]))


@runtime_checkable
class AboutThePatch(Protocol):
    """An objective that has to know where the patch is."""

    def at(self, placement: Placement, threat: Patch) -> Objective | PreparedObjective: ...


def placed(
    objective: Objective | PreparedObjective, placement: Placement, threat: Patch
) -> Objective | PreparedObjective:
    """``objective`` for a patch of this size at these places."""
    return objective.at(placement, threat) if isinstance(objective, AboutThePatch) else objective


class Ascent:
    """Steps of a patch up a gradient: ``steps`` of them, from ``step_size`` down to almost 0 in even steps."""

    def __init__(self, update: Update, step_size: float, steps: int) -> None:
        self.update, self.step_size, self.steps = update, step_size, steps
        self._number = 0
        self._mean: Tensor | float = 0.0
        self._square: Tensor | float = 0.0

    def step(
        self, patches: Float[Tensor, "*n 3 S S"], gradient: Float[Tensor, "*n 3 S S"]
    ) -> Float[Tensor, "*n 3 S S"]:
        """The next iterate, in [0, 1]."""
        size = self.step_size * (1 - self._number / self.steps)
        self._number += 1
        if self.update == "sign":
            return (patches.detach() + size * gradient.sign()).clamp(0, 1)
        self._mean = DECAYS[0] * self._mean + (1 - DECAYS[0]) * gradient
        self._square = DECAYS[1] * self._square + (1 - DECAYS[1]) * gradient.square()
        mean, square = self._mean / (1 - DECAYS[0] ** self._number), self._square / (1 - DECAYS[1] ** self._number)
        return (patches.detach() + size * mean / (square.sqrt() + TINY)).clamp(0, 1)


def random_patches(images: Images, side: int, generators: Sequence[torch.Generator]) -> Float[Tensor, "B 3 S S"]:
    """Each image's from its own generator."""
    return torch.stack([torch.rand(3, side, side, generator=generator) for generator in generators]).to(images)


def cut(images: Images, corners: Int[Tensor, "B 2"], side: int) -> Float[Tensor, "B 3 S S"]:
    """What the images have in their squares."""
    squares = zip(images, corners.tolist(), strict=True)
    return torch.stack([image[:, row : row + side, column : column + side] for image, (row, column) in squares])


def in_8_bits(patches: Float[Tensor, "*n 3 S S"]) -> Float[Tensor, "*n 3 S S"]:
    """As a file keeps them."""
    return (patches * 255).round() / 255
