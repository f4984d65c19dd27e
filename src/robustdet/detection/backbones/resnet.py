"""ResNet-18 and ResNet-50 (He et al., CVPR 2016, arXiv 1512.03385), torchvision's, without their norms."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, resnet18, resnet50

from robustdet.detection.backbones.classifier import Classifier
from robustdet.detection.backbones.folding import folded
from robustdet.detection.backbones.residual import Residual


class ResNet(Classifier):
    """The stem and its four stages, whose last three, at strides 8, 16 and 32, end in sources.

    Each block is one `Residual` of ``layers``: a way leads around every convolution behind the stem.
    """

    input_sizes = range(96, 513)
    head = "fc."

    def __init__(self, depth: Literal[18, 50] = 18) -> None:
        self.depth = depth
        stages = _stages(self.network())
        layers, sources = [], {}
        for place, stage in enumerate(stages):
            layers += stage
            if place > 1:
                sources[len(layers) - 1] = _channels(stage)
        super().__init__(layers, sources, in_channels=3, out_channels=_channels(stages[-1]))
        self.trained = ResNet18_Weights.IMAGENET1K_V1 if depth == 18 else ResNet50_Weights.IMAGENET1K_V1

    def network(self) -> nn.Module:
        return (resnet18 if self.depth == 18 else resnet50)(weights=None)

    def chain(self, network: nn.Module) -> list[nn.Module]:
        return [layer for stage in _stages(network) for layer in stage]


def _stages(network: Any) -> list[list[nn.Module]]:
    stages = [folded([network.conv1, network.bn1, network.relu, network.maxpool])]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        stages.append([_block(block) for block in stage])
    return stages


def _block(block: Any) -> Residual:
    parts: list[nn.Module] = []
    for place in (1, 2, 3):
        if hasattr(block, f"conv{place}"):
            parts += [getattr(block, f"conv{place}"), getattr(block, f"bn{place}"), nn.ReLU(inplace=True)]
    shortcut = nn.Identity() if block.downsample is None else folded(block.downsample)[0]
    return Residual(nn.Sequential(*folded(parts[:-1])), shortcut, nn.ReLU(inplace=True), block.stride)


def _channels(stage: list[nn.Module]) -> int:
    return int([layer for layer in stage[-1].modules() if isinstance(layer, nn.Conv2d)][-1].out_channels)
