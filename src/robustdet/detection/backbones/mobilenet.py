"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv 1801.04381), torchvision's, without its norms."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from robustdet.detection.backbones.classifier import Classifier
from robustdet.detection.backbones.folding import folded
from robustdet.detection.backbones.residual import Residual

LAST = {6: 32, 13: 96, 17: 320}  # the last block at strides 8, 16 and 32, and its channels: the sources


class MobileNetV2(Classifier):
    """The stem and the 17 blocks; the last block at each of the strides 8, 16 and 32 is a source.

    ``layers`` has the convolutions and ReLUs of the blocks that nothing goes around (1, 2, 4, 7, 11, 14, 17) one by
    one, and each other block as a `Residual`. Layer 15 is the projection of block 4: the first map at stride 8, before
    any activation, through which all goes that any source sees.
    """

    trained = MobileNet_V2_Weights.IMAGENET1K_V1
    input_sizes = range(96, 321)
    head = "classifier."

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        sources = {}
        for block, chain in enumerate(_blocks(mobilenet_v2(weights=None))):
            layers += chain
            if block in LAST:
                sources[len(layers) - 1] = LAST[block]
        super().__init__(layers, sources, in_channels=3, out_channels=LAST[17])

    def network(self) -> nn.Module:
        return mobilenet_v2(weights=None)

    def chain(self, network: nn.Module) -> list[nn.Module]:
        return [layer for block in _blocks(network) for layer in block]


def _blocks(network: Any) -> list[list[nn.Module]]:
    stem, *blocks = network.features[:18]  # the 19th widens the last map for the classifier
    chains = [_apart(folded(stem))]
    for block in blocks:
        chain = _apart(folded(block.conv))
        if block.use_res_connect:
            chain = [Residual(nn.Sequential(*chain), nn.Identity(), nn.Identity())]
        chains.append(chain)
    return chains


def _apart(chain: list[nn.Module]) -> list[nn.Module]:
    """With activations that write beside their inputs.

    In place, autograd copies what a ReLU6 is about to overwrite: an update of RobustDet took 1.16 times as long.
    """
    for layer in chain:
        if isinstance(layer, nn.ReLU6):
            layer.inplace = False
    return chain
