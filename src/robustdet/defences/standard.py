"""Standard training: clean images only. The row "SSD" of the paper's tables."""

from __future__ import annotations

from typing import Any

import torch

from robustdet.ranks import averaged, world_size
from robustdet.types import Batch, DetectionLosses, HasLosses, StepOutput


def detection_parts(losses: DetectionLosses) -> dict[str, torch.Tensor]:
    """L_cls, L_loc and L_det = L_cls + L_loc of a batch (Sec. 3.1), each per positive default box of the batch.

    Where several processes share a batch, the positives of all of them are counted, and each process divides by their
    number / processes: the mean over processes is the loss of one process with the whole batch.
    """
    positives = averaged(losses.num_positives.sum().to(losses.classification)).clamp(min=1 / world_size())
    classification, localization = losses.classification.sum() / positives, losses.localization.sum() / positives
    return {"L_cls": classification, "L_loc": localization, "L_det": classification + localization}


class Standard:
    """Minimises L_det on the clean batch."""

    def step(self, model: HasLosses, batch: Batch, generator: torch.Generator) -> StepOutput:
        losses = model.losses(model(batch.images, generator), model.assign(batch.targets))
        parts = detection_parts(losses)
        return StepOutput(parts["L_det"], parts)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
