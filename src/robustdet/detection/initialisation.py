"""How the weights of a detector start. They are drawn from the global generator, as in every layer of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.detection.backbones.backbone import Backbone
from robustdet.detection.backbones.residual import Residual
from robustdet.detection.layers import Head


def initialise_layers(part: Backbone) -> None:
    """Normal, biases 0. Variance 2 / fan-in for convolutions that a ReLU follows (He et al., ICCV 2015), else 1.

    The branches of N residual blocks begin 1 / sqrt(N) as large, so that without norms their sum stays of unit size.
    """
    modules = list(part.modules())
    chains = [module for module in modules if isinstance(module, nn.Sequential)]
    rectified = {id(layer) for chain in chains for layer, after in pairwise(chain) if isinstance(after, RELUS)}
    for layer in modules:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if id(layer) in rectified else "linear")
            nn.init.zeros_(layer.bias)
    blocks = [module for module in modules if isinstance(module, Residual)]
    for block in blocks:
        with torch.no_grad():
            last = cast(nn.Conv2d, block.branch[-1])
            last.weight /= math.sqrt(len(blocks))


RELUS = (nn.ReLU, nn.ReLU6)
PIXEL_STD = 64.0  # about that of photographs and of drawn images, on the 0-255 scale


def scale_first_layer(backbone: Backbone, std: Float[Tensor, "1 3 1 1"]) -> None:
    """Take the scale of the pixels out of the first convolution's random weights.

    He's variance is for inputs of unit size. VGG's ImageNet weights expect pixels that are not divided by anything
    (``std`` 1); random ones would start some 60 times too large there, and diverge within a few updates.
    """
    weight, _ = next(_parameters(backbone))
    with torch.no_grad():
        weight *= std / PIXEL_STD


def initialise_heads(classification: Head, regression: Head, std: float | None, background_bias: float | int) -> None:
    """Normal with this standard deviation, or Glorot's uniform distribution (SSD, section 3) for None.

    Biases are 0, except that of label 0 in every default box, which is ``background_bias``.
    """
    for weight, bias in (*_parameters(classification), *_parameters(regression)):
        if std is None:
            nn.init.xavier_uniform_(weight)
        else:
            nn.init.normal_(weight, std=std)
        nn.init.zeros_(bias)
    with torch.no_grad():
        for _, bias in _parameters(classification):
            bias.view(-1, classification.outputs)[:, 0] = background_bias


def _parameters(part: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            yield layer.weight, layer.bias
