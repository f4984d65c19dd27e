"""torchvision's detectors on a ResNet that torchvision offers none of them on: retinanet_resnet18_fpn and the like."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torchvision
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

NAME = re.compile(r"(?P<kind>fasterrcnn|retinanet|fcos)_(?P<resnet>resnet\d+)_fpn")
KINDS = {"fasterrcnn": FasterRCNN, "retinanet": RetinaNet, "fcos": FCOS}
LEVELS = {"returned_layers": [2, 3, 4]}  # strides 8, 16, 32, and two more: torchvision's for its one-stage detectors


def builder_of(name: str) -> Callable[..., nn.Module] | None:
    """As torchvision's own builders are called; None where the name is of no such detector."""
    found = NAME.fullmatch(name)
    if found is None or found["resnet"] not in torchvision.models.list_models(torchvision.models):
        return None
    return partial(_build, KINDS[found["kind"]], found["resnet"])


def sibling(name: str) -> str:
    """torchvision's own of the same kind, on ResNet-50."""
    return NAME.sub(r"\g<kind>_resnet50_fpn", name)


def _build(
    kind: Any, resnet: str, weights: None, weights_backbone: WeightsEnum | None, num_classes: int, **settings: Any
) -> nn.Module:
    levels = {} if kind is FasterRCNN else {**LEVELS, "extra_blocks": LastLevelP6P7(256, 256)}
    backbone = resnet_fpn_backbone(
        backbone_name=resnet, weights=weights_backbone, norm_layer=nn.BatchNorm2d, trainable_layers=5, **levels
    )
    return kind(backbone, num_classes=num_classes, **settings)


def imagenet_weights(name: str) -> WeightsEnum:
    return torchvision.models.get_model_weights(NAME.fullmatch(name)["resnet"])["IMAGENET1K_V1"]  # type: ignore[index]
