"""Starting from a clean network: its kernels are copied K times and perturbed, its other tensors taken as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from robustdet.defences.aa_conv import AAConv2d
from robustdet.defences.cfr import GaussianConv


@torch.no_grad()
def start_from_clean(
    network: nn.Module,
    clean: Mapping[str, Tensor],
    names: Iterable[str],
    perturbation: float,
    generator: torch.Generator,
) -> None:
    """Layer by layer in the order of ``names``, those of the clean network's tensors, in which noise is drawn.

    Of a `GaussianConv` the mean's convolution starts so; layers that the clean network has not keep their values.
    """
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in names):
        module = network.get_submodule(layer)
        if isinstance(module, GaussianConv):
            module = module.conv_mean
        if isinstance(module, AAConv2d):
            module.copy_plain(clean[f"{layer}.weight"], clean.get(f"{layer}.bias"), perturbation, generator)
            continue
        for name, own in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            if f"{layer}.{name}" in clean:
                own.copy_(clean[f"{layer}.{name}"])
