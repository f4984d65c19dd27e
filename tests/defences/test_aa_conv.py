"""AAConv2d against a slow loop that mixes kernels one by one."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from robustdet.defences.aa_choices import CHOICES, read, write
from robustdet.defences.aa_conv import EXECUTIONS, AAConv2d, Routing, convert_convolutions, fastest

GEOMETRIES = {
    "plain": nn.Conv2d(4, 6, 3, padding=1),
    "no padding, no bias": nn.Conv2d(4, 6, 3, bias=False),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "oblong": nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2)),
    "dilated like conv6": nn.Conv2d(4, 6, 3, padding=6, dilation=6),
    "grouped": nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(4, 8, 3, padding=1, groups=4, dilation=2),
    "same": nn.Conv2d(4, 6, 3, padding="same", dilation=2),
    "pointwise": nn.Conv2d(4, 6, 1),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def routed(batch: int, kernels: int) -> torch.Tensor:
    return torch.randn(batch, kernels, generator=generator(7), dtype=torch.float64).softmax(1)


def build(conv: nn.Conv2d, kernels: int = 3, perturbation: float = 1.0, **options: object) -> AAConv2d:
    return AAConv2d(copy.deepcopy(conv).double(), kernels, Routing(), perturbation, generator(), **options)  # type: ignore[arg-type]


def slow(layer: AAConv2d, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Image by image, kernel by kernel."""
    outputs = []
    for image, pi in zip(x, vectors, strict=True):
        weight = sum(p * w for p, w in zip(pi, layer.weight, strict=True))
        bias = None if layer.bias is None else sum(p * b for p, b in zip(pi, layer.bias, strict=True))
        outputs.append(F.conv2d(image[None], weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups))
    return torch.cat(outputs)


@pytest.mark.parametrize("execution", [*EXECUTIONS, "auto"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_execution_equals_the_slow_loop_in_values_and_gradients(geometry: str, execution: str) -> None:
    layer = build(GEOMETRIES[geometry], execution=execution)
    x = torch.randn(3, 4, 9, 8, generator=generator(1), dtype=torch.float64, requires_grad=True)
    vectors = routed(3, 3).requires_grad_()
    with layer.routing.use(vectors):
        y = layer(x)
    expected = slow(layer, x, vectors)
    torch.testing.assert_close(y, expected)
    weights = torch.randn(y.shape, generator=generator(2), dtype=torch.float64)
    inputs = [x, vectors, *layer.parameters()]
    got = torch.autograd.grad((y * weights).sum(), inputs)
    want = torch.autograd.grad((expected * weights).sum(), inputs)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_gradients_to_input_kernels_and_routing_are_exact(execution: str) -> None:
    layer = build(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), kernels=2, execution=execution)
    x = torch.randn(2, 2, 5, 4, generator=generator(1), dtype=torch.float64, requires_grad=True)
    vectors = routed(2, 2).requires_grad_()

    def call(x: torch.Tensor, vectors: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        with layer.routing.use(vectors):
            return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, vectors, layer.weight, layer.bias))


def test_equal_kernels_make_routing_irrelevant_and_are_the_plain_convolution() -> None:
    conv = GEOMETRIES["dilated like conv6"]
    layer = build(conv, perturbation=0.0)
    x = torch.randn(2, 4, 8, 8, generator=generator(1), dtype=torch.float64)
    for vectors in (routed(2, 3), torch.eye(3, dtype=torch.float64)[:2]):
        with layer.routing.use(vectors):
            torch.testing.assert_close(layer(x), copy.deepcopy(conv).double()(x))


def test_one_kernel_is_a_plain_convolution() -> None:
    layer = build(GEOMETRIES["strided"], kernels=1, perturbation=0.0)
    x = torch.randn(2, 4, 8, 8, generator=generator(1), dtype=torch.float64)
    with layer.routing.use(torch.ones(2, 1, dtype=torch.float64)):
        torch.testing.assert_close(layer(x), copy.deepcopy(GEOMETRIES["strided"]).double()(x))


def test_one_hot_routing_picks_that_kernel() -> None:
    layer = build(GEOMETRIES["plain"])
    x = torch.randn(3, 4, 8, 8, generator=generator(1), dtype=torch.float64)
    with layer.routing.use(torch.eye(3, dtype=torch.float64)):
        y = layer(x)
    for k in range(3):
        torch.testing.assert_close(y[k : k + 1], F.conv2d(x[k : k + 1], layer.weight[k], layer.bias[k], padding=1))


@pytest.mark.parametrize(
    ("channels", "size", "execution"), [(4, 3, "basis"), (4, 12, "per_image"), (8, 12, "grouped"), (8, 40, "per_image")]
)
def test_a_batch_equals_its_images_one_by_one(channels: int, size: int, execution: str) -> None:
    layer = build(nn.Conv2d(channels, 2 * channels, 3, padding=1))
    x = torch.randn(4, channels, size, size, generator=generator(1), dtype=torch.float64)
    vectors = routed(4, 3)
    assert fastest(layer, x) == execution
    assert fastest(build(nn.Conv2d(channels, 2 * channels, 3, padding=1), kernels=1), x) == "basis"
    with layer.routing.use(vectors):
        together = layer(x)
    for i in range(4):
        with layer.routing.use(vectors[i : i + 1]):
            torch.testing.assert_close(layer(x[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("execution", ["grouped", "grouped_channels_last", "per_image"])
def test_images_go_in_chunks_where_their_kernels_would_not_fit(execution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build(GEOMETRIES["strided"], execution=execution)
    x = torch.randn(5, 4, 9, 8, generator=generator(1), dtype=torch.float64, requires_grad=True)
    vectors, sizes = routed(5, 3).requires_grad_(), []
    mixed_weight = layer.mixed_weight
    layer.mixed_weight = lambda own: sizes.append(len(own)) or mixed_weight(own)  # type: ignore[method-assign]

    def computed(limit: int | None) -> tuple[torch.Tensor, ...]:
        monkeypatch.setitem(CHOICES, "cpu", replace(CHOICES["cpu"], mixed_bytes=limit))
        with layer.routing.use(vectors):
            y = layer(x)
        return y, *torch.autograd.grad(y.square().sum(), [x, vectors, *layer.parameters()])

    one = layer.weight[0].nbytes
    whole = computed(None)
    for limit in (5 * one, 3 * one - 1, 1):
        torch.testing.assert_close(computed(limit), whole)
    assert sizes == [5, 5, 2, 2, 1, *([1] * 5)]


def test_the_table_of_choices_goes_before_the_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layer, x = build(GEOMETRIES["grouped"]), torch.zeros(2, 4, 9, 8, dtype=torch.float64)
    known = layer.signature(9, 8)
    assert known == "4 to 6 in 2, 3x3 by 1x1 over 1x1, K 3, at 9x8"
    assert fastest(layer, x) == "per_image"
    write({"cpu": CHOICES["cpu"].measured("this CPU", {known: "basis"})}, tmp_path / "choices.json")
    (kind, measured) = next(iter(read(tmp_path / "choices.json").items()))
    monkeypatch.setitem(CHOICES, kind, measured)
    assert (measured.measured_on, fastest(layer, x), fastest(layer, x[..., :4])) == ("this CPU", "basis", "per_image")


def test_what_nobody_has_measured_says_so() -> None:
    """Until the first run on a GPU; then this is its table."""
    assert CHOICES["cuda"].measured_on is None or CHOICES["cuda"].layers
    layer = build(nn.Conv2d(4, 6, 3, padding=1))
    assert fastest(layer, torch.zeros(2, 4, 40, 40, device="meta")) == "grouped"  # a device that is no CPU
    with layer.to("meta").routing.use(torch.zeros(2, 3, device="meta", dtype=torch.float64)):
        shown = layer(torch.zeros(2, 4, 9, 8, device="meta", dtype=torch.float64))
        layer.execution = "grouped_channels_last"
        assert layer(torch.zeros(2, 4, 9, 8, device="meta", dtype=torch.float64)).shape == shown.shape == (2, 6, 9, 8)


def test_perturbation_is_relative_seeded_and_of_every_kernel() -> None:
    conv = nn.Conv2d(32, 32, 3)
    one, again = (AAConv2d(conv, 4, Routing(), 0.05, generator(3)) for _ in range(2))
    assert torch.equal(one.weight, again.weight)
    noise = (one.weight - conv.weight).flatten(1).std(dim=1)
    torch.testing.assert_close(noise, 0.05 * conv.weight.std().expand(4), rtol=0.05, atol=0)
    assert all((a != b).any() for a, b in pairwise(one.weight))
    assert torch.equal(one.bias, conv.bias.expand(4, -1))


def test_errors_name_the_culprit() -> None:
    layer = build(GEOMETRIES["plain"])
    x = torch.zeros(2, 4, 8, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"called without routing vectors.*with routing\.use"):
        layer(x)
    with layer.routing.use(routed(1, 3)), pytest.raises(ValueError, match=r"\(1, 3\) do not fit 2 images and K = 3"):
        layer(x)
    with pytest.raises(ValueError, match=r"padding_mode='reflect'"):
        AAConv2d(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), 2, Routing(), 0.0)
    with pytest.raises(ValueError, match=r"perturbation=0.01 needs a generator"):
        AAConv2d(nn.Conv2d(1, 1, 3), 2, Routing())


def test_the_cell_is_empty_again_after_use_and_after_an_error() -> None:
    routing = Routing()
    outer, inner = routed(1, 2), routed(2, 2)
    with routing.use(outer):
        with routing.use(inner):
            assert routing.vectors is inner
        assert routing.vectors is outer
    with pytest.raises(KeyError), routing.use(outer):
        raise KeyError
    with pytest.raises(RuntimeError, match="without routing vectors"):
        _ = routing.vectors


def test_a_resnet_converts_and_keeps_its_function() -> None:
    plain = resnet18(weights=None).eval()
    convolutions = sum(isinstance(module, nn.Conv2d) for module in plain.modules())
    routing = Routing()
    network = convert_convolutions(copy.deepcopy(plain), 4, routing, perturbation=0.0)
    assert not any(isinstance(module, nn.Conv2d) for module in network.modules())
    assert sum(isinstance(module, AAConv2d) for module in network.modules()) == convolutions == 20
    x = torch.randn(2, 3, 64, 64, generator=generator(1))
    with torch.no_grad(), routing.use(routed(2, 4).float()):
        torch.testing.assert_close(network(x), plain(x), rtol=1e-3, atol=1e-3)


def test_a_shared_convolution_stays_shared_and_a_bare_one_is_returned() -> None:
    conv = nn.Conv2d(3, 3, 1)
    network = convert_convolutions(nn.Sequential(conv, nn.ReLU(), conv), 2, Routing(), 0.0)
    assert isinstance(network[0], AAConv2d)
    assert network[0] is network[2]
    assert isinstance(convert_convolutions(conv, 2, Routing(), 0.0), AAConv2d)


def test_a_deep_copy_has_its_own_cell() -> None:
    routing = Routing()
    network = convert_convolutions(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)), 2, routing, 0.0)
    twin = copy.deepcopy(network)
    assert twin[0].routing is twin[1].routing
    assert twin[0].routing is not routing
