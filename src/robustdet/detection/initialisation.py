"""How the weights of a detector start. They are drawn from the global generator, as in every layer of PyTorch."""

from __future__ import annotations

import torch
from torch import nn

from .layers import Head, PlannedLayers


def initialise_layers(part: PlannedLayers) -> None:
    """Convolutions that a ReLU follows: normal, variance 2 / fan-in (He et al., ICCV 2015); biases 0."""
    for layer in part.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def initialise_heads(classification: Head, regression: Head, std: float | None, background_bias: float | int) -> None:
    """Normal with this standard deviation, or Glorot's uniform distribution (SSD, section 3) for None.

    Biases are 0, except that of label 0 in every default box, which is ``background_bias``.
    """
    for head in (classification, regression):
        for layer in head.layers:
            if std is None:
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
    for layer in classification.layers:
        layer.bias.view(-1, classification.outputs)[:, 0] = background_bias
