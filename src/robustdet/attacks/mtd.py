"""The multi-task adversary of MTD (Zhang & Wang, ICCV 2019, arXiv 1907.10310)."""

from __future__ import annotations

from typing import Literal

import torch

from robustdet.attacks.pgd import SignAttack, StepSize
from robustdet.attacks.threat import LInf, PixelFraction
from robustdet.attacks.victim import input_gradient
from robustdet.types import BorrowedVictim, Images


class MTD(SignAttack):
    """Each step follows the task, classification or localisation, whose sign step raises the total loss more.

    ``choice`` is made for every image, or once for a whole batch by its summed loss, as the published RobustDet code
    does; then an image's attack depends on its neighbours. A step costs one forward shared by both tasks, two
    input-backwards, and two forwards to judge the candidates.
    """

    def __init__(
        self,
        threat: LInf,
        steps: int,
        step_size: PixelFraction,
        random_start: bool = False,
        choice: Literal["image", "batch"] = "image",
    ) -> None:
        super().__init__(threat, steps, step_size, random_start)
        if choice not in ("image", "batch"):
            raise ValueError(f"expected a choice per 'image' or per 'batch', got {choice!r}")
        self.choice = choice

    def step(
        self, model: BorrowedVictim, adversarial: Images, clean: Images, step_size: StepSize | None = None
    ) -> Images:
        images = adversarial.detach().requires_grad_()
        losses = model.losses(images)
        gradients = (
            input_gradient(losses.classification, images, retain_graph=True),
            input_gradient(losses.localization, images),
        )
        by_cls, by_loc = (self._move(adversarial, clean, gradient, step_size) for gradient in gradients)
        with torch.no_grad():
            gain = model.losses(by_loc).total - model.losses(by_cls).total
        if self.choice == "batch":
            gain = gain.sum().expand(len(gain))
        return torch.where((gain > 0).view(-1, 1, 1, 1), by_loc, by_cls)
