"""What is watched while training: AP on clean images and under one short attack, on a part of the validation split."""

from __future__ import annotations

from typing import Any

import torch

from robustdet.attacks.randomness import image_generators
from robustdet.attacks.victim import DetectorVictim
from robustdet.evaluation.average_precision import voc_average_precision
from robustdet.types import Attack, Batch, Detections, Detector, Target


class Validation:
    """Collects detections of at most ``max_images`` images, clean and attacked, and turns them into AP50.

    ``attack=None`` watches clean images alone. The attack of an image depends on ``seed`` and the image's id only.
    """

    def __init__(self, attack: Attack | None, max_images: int | None, num_classes: int, seed: int) -> None:
        self.attack, self.max_images, self.num_classes, self.seed = attack, max_images, num_classes, seed
        self.reset()

    def reset(self) -> None:
        self.targets: dict[str, Target] = {}
        self.clean: dict[str, Detections] = {}
        self.attacked: dict[str, Detections] = {}

    def update(self, model: Detector, batch: Batch) -> None:
        if self.max_images is not None:
            room = self.max_images - len(self.targets)
            if room <= 0:
                return
            batch = Batch(batch.images[:room], batch.targets[:room])
        ids = [target.image_id for target in batch.targets]
        self.targets.update(zip(ids, (target.to("cpu") for target in batch.targets), strict=True))
        self.clean.update(self._detect(model, batch.images, ids))
        if self.attack is not None:
            generators = image_generators(self.seed, ids)
            images = self.attack(DetectorVictim(model), batch.images, batch.targets, generators)
            self.attacked.update(self._detect(model, images, ids))

    @staticmethod
    @torch.no_grad()
    def _detect(model: Detector, images: torch.Tensor, ids: list[str]) -> dict[str, Detections]:
        return dict(zip(ids, (found.to("cpu") for found in model.detect(model(images))), strict=True))

    def compute(self) -> dict[str, float]:
        """``AP50_clean`` and, with an attack, ``AP50_attacked``: VOC's area rule, in [0, 1]."""
        found: dict[str, Any] = {"AP50_clean": self.clean}
        if self.attack is not None:
            found["AP50_attacked"] = self.attacked
        return {
            name: voc_average_precision(detections, self.targets, self.num_classes, rule="area").mean
            for name, detections in found.items()
        }
