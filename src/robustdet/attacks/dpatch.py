"""DPatch's targeted objective (Liu et al., SafeAI 2019, arXiv 1806.02299): the patch becomes the one object."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.attacks.placement import Placement
from robustdet.attacks.threat import Patch
from robustdet.attacks.victim import require_detector
from robustdet.errors import InputError, StateError
from robustdet.types import BorrowedVictim, Images, Objective, Target


class OnlyObject:
    """The patch is detected as an object of class ``label``, from 1, and nothing else is: minus the whole detection
    loss of an image whose one annotation is the patch's square.

    What is to be found there before is background now. Where the patch is, its attack says by `at`; a square that
    transformations move it in stays the annotation.
    """

    def __init__(self, label: int) -> None:
        self.label = label
        self.where: tuple[Placement, Patch] | None = None

    def at(self, placement: Placement, threat: Patch) -> OnlyObject:
        """The same for a patch of this size at these places."""
        placed = OnlyObject(self.label)
        placed.where = placement, threat
        return placed

    def prepare(self, model: BorrowedVictim, clean: Images) -> Objective:
        """Raises InputError where the victim has no such class."""
        detector = require_detector(model, "DPatch")
        classes = detector.detector.num_classes
        if not 1 <= self.label <= classes:
            raise InputError(f"DPatch: label={self.label}, expected one of the detector's classes, 1 to {classes}")
        if self.where is None:
            raise StateError("OnlyObject is about a patch, and knows none: it is for PatchAttack and fit_patch")
        placement, threat = self.where
        side = threat.side(*clean.shape[-2:])
        corners = placement(detector.targets, side, *clean.shape[-2:])
        squares = torch.cat([corners.flip(1), corners.flip(1) + side], dim=1).float()
        only = detector.about([self._alone(*each) for each in zip(detector.targets, squares, strict=True)])

        def objective(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
            given = require_detector(model, "DPatch")
            return -replace(given, targets=only.targets, assignment=only.assignment).losses(images).total

        return objective

    def _alone(self, target: Target, square: Float[Tensor, "4"]) -> Target:
        no = torch.zeros(1, dtype=torch.bool)
        return replace(target, boxes=square[None], labels=torch.tensor([self.label]), difficult=no, crowd=no)
