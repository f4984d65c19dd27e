"""Numbers that explain what a discriminator and its kernels have learnt; logged while training, never optimised."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustdet.defences.aa_conv import AAConv2d
from robustdet.defences.triplet_loss import entropy, jensen_shannon
from robustdet.errors import InputError


def routing_diagnostics(routing: Float[Tensor, "B K"], attacked: Bool[Tensor, "B"]) -> dict[str, Tensor]:
    """Of one batch with clean and attacked images.

    ``routing_entropy``: mean entropy of π over log K, 0 (one kernel an image) to 1 (all alike).
    ``kernels_used``: exp of the entropy of the mean π, 1 to K: how many kernels the batch uses.
    ``aid_separation``: Jensen-Shannon divergence between the mean π of clean and of attacked images over its
    largest value log 2: 0 (the discriminator cannot tell them apart) to 1.
    """
    kernels, kinds = routing.shape[1], torch.stack([~attacked, attacked]).to(routing)
    means = kinds @ routing / kinds.sum(dim=1, keepdim=True)  # selecting rows by a mask would make a GPU wait
    return {
        "routing_entropy": entropy(routing).mean() / max(math.log(kernels), 1e-9),
        "kernels_used": entropy(routing.mean(dim=0)).exp(),
        "aid_separation": _separation(means),
    }


def aid_separation(clean: Float[Tensor, "B K"], attacked: Float[Tensor, "A K"]) -> Float[Tensor, ""]:
    """JS(mean π of clean, mean π of attacked) / log 2, in [0, 1]."""
    return _separation(torch.stack([clean.mean(dim=0), attacked.mean(dim=0)]))


def _separation(means: Float[Tensor, "2 K"]) -> Float[Tensor, ""]:
    return jensen_shannon(means)[0, 1].clamp(min=0) / math.log(2)


@torch.no_grad()
def kernel_divergence(model: nn.Module) -> float:
    """How far the K kernels have grown apart: mean over AA-convolutions of |w_k - mean w| / |mean w| (Frobenius).

    0 when all kernels are equal and routing is without effect.
    """
    values = []
    for module in model.modules():
        if isinstance(module, AAConv2d):
            mean = module.weight.mean(dim=0, keepdim=True)
            values.append((module.weight - mean).flatten(1).norm(dim=1).mean() / mean.norm().clamp(min=1e-12))
    if not values:
        raise InputError(f"{type(model).__name__} has no adversarially-aware convolution")
    return float(torch.stack(values).mean())
