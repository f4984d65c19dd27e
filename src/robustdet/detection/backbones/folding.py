"""Batch norms with fixed statistics are part of the convolution before them: the network without norms is the same.

A detector trained under attack has two populations of images, whose statistics one norm would mix; and an image would
not be seen alone. So trained classifiers come without their norms, as VGG16 does, from which the paper starts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import nn


def folded(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The leaves of ``modules`` in order, new ones, each convolution with the norm behind it as one."""
    layers: list[nn.Module] = []
    for leaf in _leaves(modules):
        if isinstance(leaf, nn.BatchNorm2d):
            conv = layers.pop()
            if not isinstance(conv, nn.Conv2d):
                raise TypeError(f"a norm is folded into the convolution before it, but before it stands {conv}")
            layers.append(fold(conv, leaf))
        else:
            layers.append(copy.deepcopy(leaf))
    return layers


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that computes ``norm(conv(x))`` in evaluation mode; its parameters are made in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError(f"{norm} has no fixed statistics to fold")
    joined = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        padding_mode=conv.padding_mode,
    )
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.running_mean.double() - (0 if conv.bias is None else conv.bias.double())
    joined.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
    joined.bias.copy_(norm.bias.double() - shift * scale)  # type: ignore[union-attr]
    return joined


def _leaves(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for module in modules:
        if isinstance(module, nn.Sequential):
            yield from _leaves(module)
        else:
            yield module
