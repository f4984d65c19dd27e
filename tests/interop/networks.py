"""Somebody else's detectors, small and random: what the contracts of detectors and the adapters' own tests look at."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from robustdet.interop.torchvision_models import TorchvisionModel

SIZE = 64
FAST = "fasterrcnn_mobilenet_v3_large_320_fpn"
ONE_STAGE = ("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large")
NAMES = (FAST, *ONE_STAGE)


def settings(name: str) -> dict[str, object]:
    return {"name": name, "weights": None, "input_size": SIZE, "min_size": None if name.startswith("ssd") else SIZE}


@cache
def _built(name: str, seed: int, num_classes: int) -> TorchvisionModel:
    torch.manual_seed(seed)
    return lively(TorchvisionModel(**settings(name), num_classes=num_classes))  # type: ignore[arg-type]


def torchvision_model(name: str, seed: int = 0, num_classes: int = 3) -> TorchvisionModel:
    return copy.deepcopy(_built(name, seed, num_classes))


def lively(model: TorchvisionModel) -> TorchvisionModel:
    """With batch norms that know their inputs: a random network whose norms do not says the same of every image."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.training, norm.momentum = True, None
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        model.detect(model(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def bright_boxes(images: Tensor) -> list[dict[str, Tensor]]:
    """A detector that nobody can look into: of each image the bounding box of what is brighter than its mean."""
    found = []
    for image in images:
        bright = image.mean(dim=0) > image.mean() + 0.25
        rows, columns = bright.any(dim=1).nonzero().flatten(), bright.any(dim=0).nonzero().flatten()
        if not len(rows):
            found.append({"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)})
            continue
        box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        score = image[:, bright].mean().clamp(0, 1)
        found.append({"boxes": box[None], "scores": score[None], "labels": torch.ones(1)})
    return found
