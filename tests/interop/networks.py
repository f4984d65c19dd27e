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
ONE_STAGE = ("retinanet_resnet18_fpn", "fcos_resnet18_fpn", "ssdlite320_mobilenet_v3_large")
NAMES = (FAST, *ONE_STAGE)


def settings(name: str) -> dict[str, object]:
    return {"name": name, "weights": None, "input_size": SIZE, "min_size": None if name.startswith("ssd") else SIZE}


RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
    "out_features": ["stage2"],
}  # fmt: skip
TRANSFORMERS = {
    "detr": {
        "model_type": "detr", "use_timm_backbone": False, "backbone": None, "backbone_config": RESNET, "d_model": 32,
        "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 12,
    },
    "yolos": {
        "model_type": "yolos", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "image_size": [SIZE, SIZE], "patch_size": 16, "num_detection_tokens": 12,
    },
    "rt_detr": {
        "model_type": "rt_detr",
        "backbone_config": {
            **RESNET, "model_type": "rt_detr_resnet", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
            "out_features": ["stage2", "stage3", "stage4"],
        },
        "encoder_in_channels": [8, 16, 16], "encoder_hidden_dim": 32, "encoder_layers": 1, "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "d_model": 32, "num_queries": 12, "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_n_points": 2,
    },
}  # fmt: skip
NEEDS_TRANSFORMERS = "transformers is not installed: pip install '.[transformers]'"


def as_override(value: object) -> str:
    """A value as a command line of Hydra's has it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_override(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_override, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


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
