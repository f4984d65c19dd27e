"""Our detectors in the Adversarial Robustness Toolbox (ART; the extra `art`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import nn

from robustdet.errors import InputError
from robustdet.interop.as_torchvision import TorchvisionInterface, torchvision_target
from robustdet.types import Detector, Targets

Loss: TypeAlias = Literal["classification", "bbox_regression"]
LOSSES: tuple[Loss, ...] = ("classification", "bbox_regression")


def as_art(
    detector: Detector,
    attack_losses: Sequence[str] = LOSSES,
    optimizer: Any = None,
    device_type: Literal["cpu", "gpu"] = "cpu",
) -> Any:
    """ART's ``PyTorchObjectDetector`` of this detector, for images [B, 3, S, S], RGB in [0, 1], S the detector's size.

    ``attack_losses`` are what ART's attacks climb, summed: "classification" alone is A_cls here, "bbox_regression"
    A_loc, both the total loss. ART leaves the detector in training mode behind an attack, and gradients in its
    parameters: ``detector.eval()`` and ``detector.zero_grad()`` before it is used elsewhere. ``optimizer`` is for its
    ``fit``. Raises InputError where ART is not installed, or a loss is none of these.
    """
    wrong = [name for name in attack_losses if name not in LOSSES]
    if wrong or not attack_losses:
        raise InputError(f"attack_losses={list(attack_losses)}: expected some of {', '.join(LOSSES)}")
    try:
        from art.estimators.object_detection import PyTorchObjectDetector
    except ImportError as error:
        raise InputError("ART is not installed: pip install 'robustdet[art]'") from error
    model: nn.Module = detector if isinstance(detector, TorchvisionInterface) else TorchvisionInterface(detector)
    side = model.detector.input_size  # type: ignore[union-attr]
    return PyTorchObjectDetector(
        model,
        input_shape=(3, side, side),
        optimizer=optimizer,
        clip_values=(0.0, 1.0),
        attack_losses=tuple(attack_losses),
        device_type=device_type,
    )


def art_targets(targets: Targets) -> list[dict[str, np.ndarray]]:
    """``y`` of ART's attacks: what a loss may use of each image, neither difficult nor crowd, as our own attacks do."""
    return [{key: value.cpu().numpy() for key, value in torchvision_target(one).items()} for one in targets]
