"""The multi-task adversary of MTD (Zhang & Wang, ICCV 2019, arXiv 1907.10310)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from robustdet.attacks.base import BaseAttack, require_count
from robustdet.attacks.objectives import total
from robustdet.attacks.pgd import StepSize, sign_step
from robustdet.attacks.threat import LInf, PixelFraction, check_images, pixel_fraction
from robustdet.attacks.victim import input_gradient
from robustdet.errors import InputError
from robustdet.ranks import averaged
from robustdet.types import BorrowedVictim, DetectionLosses, Images, Targets, Victim

ALONE_PIXELS = 200 * 200  # from this size on, a batch of one keeps a CPU as busy as any other batch


@dataclass(frozen=True)
class _Candidate:
    """Images and their losses; with gradients enabled, the way back from these to those."""

    images: Images
    losses: DetectionLosses


class MTD(BaseAttack):
    """Each step follows the task, classification or localisation, whose sign step raises the total loss more.

    ``choice`` is made for every image, or once for a whole batch by its summed loss, as the published RobustDet code
    does; then an image's attack depends on its neighbours. A step costs one forward shared by both tasks, two
    input-backwards, and two forwards to judge the candidates. The weights stand still between the steps of one attack,
    so there the chosen candidate's forward is the next step's, and two and two remain: wherever one choice holds for
    all images that share a forward. ``one_by_one`` makes it so by attacking image after image; None does where the
    batch would save nothing: large images on a CPU.
    """

    threat: LInf

    def __init__(
        self,
        threat: LInf,
        steps: int,
        step_size: PixelFraction,
        random_start: bool = False,
        choice: Literal["image", "batch"] = "image",
        one_by_one: bool | None = None,
    ) -> None:
        if choice not in ("image", "batch"):
            raise InputError(f"expected a choice per 'image' or per 'batch', got {choice!r}")
        self.objective = total
        self.threat = threat
        self.steps = require_count("steps", steps)
        self.step_size = pixel_fraction(step_size)
        self.random_start = random_start
        self.choice = choice
        self.one_by_one = one_by_one

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        if self.choice == "batch" or len(images) < 2 or not self._one_by_one(images):
            return self._attack(victim, images, targets, generators)
        attacked = [
            self._attack(victim, images[i : i + 1], targets[i : i + 1], generators[i : i + 1])
            for i in range(len(images))
        ]
        return torch.cat(attacked)

    def step(
        self, model: BorrowedVictim, adversarial: Images, clean: Images, step_size: StepSize | None = None
    ) -> Images:
        """The next iterate; ``step_size`` replaces the attack's own, one for all images or one each.

        A training steps in all its processes at once, so a batch's choice is one of all their images.
        """
        size = self.step_size if step_size is None else step_size
        by_cls, by_loc = self._candidates(model, _candidate(model, adversarial), clean, size, graphs=False)
        prefers_loc = self._prefers_loc(by_cls, by_loc, of_all_processes=True).view(-1, 1, 1, 1)
        return torch.where(prefers_loc, by_loc.images, by_cls.images)

    def _attack(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        adversarial = self.threat.uniform(images, generators) if self.random_start else images.clone()
        with victim.borrow(targets) as model:
            if self.choice == "image" and len(images) > 1:
                # the next images come out of two forwards: neither's graph fits
                for _ in range(self.steps):
                    adversarial = self.step(model, adversarial, images)
                return adversarial
            at = _candidate(model, adversarial)
            for left in reversed(range(self.steps)):
                by_cls, by_loc = self._candidates(model, at, images, self.step_size, graphs=left > 0)
                at = by_loc if bool(self._prefers_loc(by_cls, by_loc).all()) else by_cls
            return at.images.detach()

    def _candidates(
        self, model: BorrowedVictim, at: _Candidate, clean: Images, size: StepSize, graphs: bool
    ) -> tuple[_Candidate, _Candidate]:
        """Where a sign step on either task leads, classification first; ``at`` loses its graph."""
        gradients = (
            input_gradient(at.losses.classification, at.images, retain_graph=True),
            input_gradient(at.losses.localization, at.images),
        )
        images = at.images.detach()
        by_cls, by_loc = (sign_step(self.threat, images, clean, gradient, size) for gradient in gradients)
        with torch.set_grad_enabled(graphs):
            return _candidate(model, by_cls), _candidate(model, by_loc)

    def _prefers_loc(self, by_cls: _Candidate, by_loc: _Candidate, of_all_processes: bool = False) -> torch.Tensor:
        gain = by_loc.losses.total.detach() - by_cls.losses.total.detach()
        if self.choice == "batch":
            gain = (averaged(gain.sum()) if of_all_processes else gain.sum()).expand(len(gain))
        return gain > 0

    def _one_by_one(self, images: Images) -> bool:
        large = images.device.type == "cpu" and images.shape[2] * images.shape[3] >= ALONE_PIXELS
        return large if self.one_by_one is None else self.one_by_one


def _candidate(model: BorrowedVictim, images: Images) -> _Candidate:
    images = images.detach().requires_grad_(torch.is_grad_enabled())
    return _Candidate(images, model.losses(images))
