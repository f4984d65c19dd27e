"""The multi-task adversary of MTD (Zhang & Wang, ICCV 2019, arXiv 1907.10310)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from robustdet.attacks.pgd import SignAttack, StepSize
from robustdet.attacks.threat import LInf, PixelFraction, check_images
from robustdet.attacks.victim import input_gradient
from robustdet.types import BorrowedVictim, DetectionLosses, Images, Targets, Victim

ALONE_PIXELS = 200 * 200  # from this size on, a batch of one keeps a CPU as busy as any other batch


@dataclass(frozen=True)
class _Look:
    """Images and their losses; with gradients enabled, the way back from these to those."""

    images: Images
    losses: DetectionLosses


class MTD(SignAttack):
    """Each step follows the task, classification or localisation, whose sign step raises the total loss more.

    ``choice`` is made for every image, or once for a whole batch by its summed loss, as the published RobustDet code
    does; then an image's attack depends on its neighbours. A step costs one forward shared by both tasks, two
    input-backwards, and two forwards to judge the candidates. The weights stand still between the steps of one attack,
    so there the chosen candidate's forward is the next step's, and two and two remain: wherever one choice holds for
    all images that share a forward. ``one_by_one`` makes it so by attacking image after image; None does where the
    batch would save nothing: large images on a CPU.
    """

    def __init__(
        self,
        threat: LInf,
        steps: int,
        step_size: PixelFraction,
        random_start: bool = False,
        choice: Literal["image", "batch"] = "image",
        one_by_one: bool | None = None,
    ) -> None:
        super().__init__(threat, steps, step_size, random_start)
        if choice not in ("image", "batch"):
            raise ValueError(f"expected a choice per 'image' or per 'batch', got {choice!r}")
        self.choice = choice
        self.one_by_one = one_by_one

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        check_images(images, targets)
        if self.choice == "batch" or len(images) < 2 or not self._one_by_one(images):
            return super().__call__(victim, images, targets, generators)
        attacked = [
            super(MTD, self).__call__(victim, images[i : i + 1], targets[i : i + 1], generators[i : i + 1])
            for i in range(len(images))
        ]
        return torch.cat(attacked)

    def step(
        self, model: BorrowedVictim, adversarial: Images, clean: Images, step_size: StepSize | None = None
    ) -> Images:
        by_cls, by_loc = self._candidates(model, _look(model, adversarial), clean, step_size, graphs=False)
        return torch.where(self._prefers_loc(by_cls, by_loc).view(-1, 1, 1, 1), by_loc.images, by_cls.images)

    def _all_steps(self, model: BorrowedVictim, adversarial: Images, clean: Images) -> Images:
        if self.choice == "image" and len(clean) > 1:  # the next images come out of two forwards: neither's graph fits
            return super()._all_steps(model, adversarial, clean)
        look = _look(model, adversarial)
        for left in reversed(range(self.steps)):
            by_cls, by_loc = self._candidates(model, look, clean, None, graphs=left > 0)
            look = by_loc if bool(self._prefers_loc(by_cls, by_loc).all()) else by_cls
        return look.images.detach()

    def _candidates(
        self, model: BorrowedVictim, look: _Look, clean: Images, step_size: StepSize | None, graphs: bool
    ) -> tuple[_Look, _Look]:
        """Where a sign step on either task leads, classification first; ``look`` loses its graph."""
        gradients = (
            input_gradient(look.losses.classification, look.images, retain_graph=True),
            input_gradient(look.losses.localization, look.images),
        )
        images = look.images.detach()
        by_cls, by_loc = (self._move(images, clean, gradient, step_size) for gradient in gradients)
        with torch.set_grad_enabled(graphs):
            return _look(model, by_cls), _look(model, by_loc)

    def _prefers_loc(self, by_cls: _Look, by_loc: _Look) -> torch.Tensor:
        gain = by_loc.losses.total.detach() - by_cls.losses.total.detach()
        if self.choice == "batch":
            gain = gain.sum().expand(len(gain))
        return gain > 0

    def _one_by_one(self, images: Images) -> bool:
        large = images.device.type == "cpu" and images.shape[2] * images.shape[3] >= ALONE_PIXELS
        return large if self.one_by_one is None else self.one_by_one


def _look(model: BorrowedVictim, images: Images) -> _Look:
    images = images.detach().requires_grad_(torch.is_grad_enabled())
    return _Look(images, model.losses(images))
