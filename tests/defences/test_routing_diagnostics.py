"""Each number that is logged about the discriminator against a loop over images and kernels."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from robustdet.defences.aa_conv import AAConv2d, Routing
from robustdet.defences.routing_diagnostics import aid_separation, kernel_divergence, routing_diagnostics

KINDS = torch.tensor([False, True, True, False, False, True, False])


@pytest.fixture(params=[2, 4])
def routing(request: pytest.FixtureRequest) -> torch.Tensor:
    logits = torch.randn(7, request.param, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (3 * logits).softmax(dim=1)


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def test_diagnostics_are_those_of_a_slow_loop(routing: torch.Tensor):
    rows, kernels = routing.tolist(), routing.shape[1]
    clean, attacked = (mean([row for row, kind in zip(rows, KINDS, strict=True) if kind == k]) for k in (False, True))
    middle = mean([clean, attacked])
    divergences = [
        a / 2 * math.log(a / m) + b / 2 * math.log(b / m) for a, b, m in zip(clean, attacked, middle, strict=True)
    ]
    found = routing_diagnostics(routing, KINDS)
    assert {name: value.item() for name, value in found.items()} == pytest.approx({
        "routing_entropy": sum(entropy(row) for row in rows) / len(rows) / math.log(kernels),
        "kernels_used": math.exp(entropy(mean(rows))),
        "aid_separation": sum(divergences) / math.log(2),
    })  # fmt: skip


def test_their_ends():
    same, apart = torch.full((4, 4), 0.25), torch.eye(4)[[0, 0, 1, 1]]
    kinds = torch.tensor([False, False, True, True])
    assert {n: v.item() for n, v in routing_diagnostics(same, kinds).items()} == pytest.approx(
        {"routing_entropy": 1, "kernels_used": 4, "aid_separation": 0}, abs=1e-6
    )
    assert {n: v.item() for n, v in routing_diagnostics(apart, kinds).items()} == pytest.approx(
        {"routing_entropy": 0, "kernels_used": 2, "aid_separation": 1}, abs=1e-6
    )
    one_kernel = routing_diagnostics(torch.ones(4, 1), kinds)
    assert {n: v.item() for n, v in one_kernel.items()} == {
        "routing_entropy": 0,
        "kernels_used": 1,
        "aid_separation": 0,
    }


def test_separation_grows_as_two_kinds_part():
    clean = torch.tensor([[0.5, 0.5]])
    values = [aid_separation(clean, torch.tensor([[0.5 + x, 0.5 - x]])).item() for x in (0, 0.1, 0.3, 0.5)]
    assert all(one < other for one, other in pairwise(values))


def test_kernel_divergence_is_that_of_a_loop_over_layers_and_kernels():
    routing, generator = Routing(), torch.Generator().manual_seed(0)
    layers = [AAConv2d(conv, 4, routing, 0.3, generator) for conv in (nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1))]
    values = []
    for layer in layers:
        kernels = [kernel.flatten().tolist() for kernel in layer.weight]
        centre = mean(kernels)
        for kernel in kernels:
            difference = math.sqrt(sum((a - b) ** 2 for a, b in zip(kernel, centre, strict=True)))
            values.append(difference / math.sqrt(sum(b**2 for b in centre)))
    assert kernel_divergence(nn.Sequential(*layers, nn.Conv2d(2, 2, 1))) == pytest.approx(
        sum(values) / len(values), rel=1e-5
    )


def test_kernels_that_are_equal_do_not_diverge_and_a_plain_network_has_none():
    assert kernel_divergence(AAConv2d(nn.Conv2d(3, 5, 3), 4, Routing(), perturbation=0.0)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="Conv2d has no adversarially-aware convolution"):
        kernel_divergence(nn.Conv2d(3, 5, 3))
