"""Adversarial training on clean and attacked halves: SSD-AT, MTD and CWAT differ only in the attack they train on.

SSD-AT trains on A_cls or A_loc (Eq. 1), MTD on the more harmful of the two for each image (Zhang & Wang, ICCV 2019),
CWAT on the class-balanced objective (Chen et al., CVPR 2021).
"""

from __future__ import annotations

from typing import Any

import torch

from robustdet.defences.schedules import AdversarialBatch, Schedule
from robustdet.defences.standard import detection_parts
from robustdet.types import Batch, DetectionLosses, HasLosses, StepOutput


def halves(losses: DetectionLosses, clean: int) -> dict[str, torch.Tensor]:
    """L_det of the first ``clean`` images and of the others, detached: to be looked at, not learnt from."""
    total = losses.each_per_positive(losses.total).detach()
    return {"L_det_clean": total[:clean].mean(), "L_det_adv": total[clean:].mean()}


def perturbation_size(adversarial: AdversarialBatch) -> torch.Tensor:
    """How far the attack has moved: mean absolute perturbation in units of 1/255."""
    return (adversarial.images - adversarial.source.images).abs().mean() * 255


class AdversarialTraining:
    """Minimises L_det on the clean batch joined with an adversarial batch of the same size."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def step(self, model: HasLosses, batch: Batch, generator: torch.Generator) -> StepOutput:
        adversarial = self.schedule.next(model, batch, generator)
        images = torch.cat([batch.images, adversarial.images])
        targets = [*batch.targets, *adversarial.source.targets]
        losses = model.losses(model(images, generator), model.assign(targets))
        parts = detection_parts(losses)

        def diagnostics() -> dict[str, torch.Tensor]:
            return {**halves(losses, len(batch)), "perturbation": perturbation_size(adversarial)}

        return StepOutput(parts["L_det"], parts, diagnostics)

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state["schedule"])
