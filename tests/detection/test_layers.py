from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from robustdet.detection.layers import Head, L2Norm, PlannedLayers, source_sizes

VGG = "64 64 M 128 128 M 256 256 256 C 512 512 512^ M 512 512 512 P 1024d6 1024k1^"


def test_vgg_has_the_indices_everybody_knows() -> None:
    backbone, known = PlannedLayers(VGG), torchvision.models.vgg16(weights=None).features
    ours = {index: layer for index, layer in enumerate(backbone.layers) if isinstance(layer, nn.Conv2d)}
    for index, layer in enumerate(known):
        if isinstance(layer, nn.Conv2d):
            assert ours.pop(index).weight.shape == layer.weight.shape
    assert {index: str(layer) for index, layer in ours.items()} == {
        31: "Conv2d(512, 1024, kernel_size=(3, 3), stride=(1, 1), padding=(6, 6), dilation=(6, 6))",
        33: "Conv2d(1024, 1024, kernel_size=(1, 1), stride=(1, 1))",
    }
    assert backbone.sources == {22: 512, 34: 1024}


def test_relus_in_place_change_no_bit() -> None:
    one = PlannedLayers("8 8^ M 6^ 4")
    other = copy.deepcopy(one)
    for layer in other.modules():
        if isinstance(layer, nn.ReLU):
            assert layer.inplace
            layer.inplace = False
    said, gradients = [], []
    for layers in (one, other):
        x = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
        end, sources = layers(x)
        said.append([end, *sources])
        gradients.append(torch.autograd.grad(sum(one.square().sum() for one in said[-1]), [x, *layers.parameters()]))
    for first, second in zip([*said[0], *gradients[0]], [*said[1], *gradients[1]], strict=True):
        assert torch.equal(first, second)


def test_tokens_become_layers() -> None:
    layers = PlannedLayers("8k1 6s2p0 4k5d2 M C P", in_channels=5).layers
    assert [str(layer) for layer in layers if not isinstance(layer, nn.ReLU)] == [
        "Conv2d(5, 8, kernel_size=(1, 1), stride=(1, 1))",
        "Conv2d(8, 6, kernel_size=(3, 3), stride=(2, 2))",
        "Conv2d(6, 4, kernel_size=(5, 5), stride=(1, 1), padding=(4, 4), dilation=(2, 2))",
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)",
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=True)",
        "MaxPool2d(kernel_size=3, stride=1, padding=1, dilation=1, ceil_mode=False)",
    ]


@pytest.mark.parametrize("token", ["x", "64x2", "s2", "64^s2", "M^"])
def test_an_unknown_token_is_named(token: str) -> None:
    with pytest.raises(ValueError, match="unknown layer '" + token.replace("^", r"\^")):
        PlannedLayers(f"64 {token} 32")


@pytest.mark.parametrize("cut", [0, 4, 5, 6, 9])
def test_a_part_and_the_rest_are_the_whole(cut: int) -> None:
    network, x = PlannedLayers("8 8 6^ M 4^"), torch.rand(2, 3, 16, 16)
    whole, sources = network(x)
    first, first_sources = network(x, stop=cut)
    rest, rest_sources = network(first, start=cut)
    assert torch.equal(rest, whole)
    assert len(sources) == 2
    for ours, theirs in zip([*first_sources, *rest_sources], sources, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [96, 97, 128, 300])
def test_source_sizes_are_those_of_a_real_pass(size: int) -> None:
    backbone, extras = PlannedLayers("8s2 8 C 8^ M 8 P 8d6^"), PlannedLayers("4k1 4s2^ 4p0^", in_channels=8)
    x, sources = backbone(torch.rand(1, 3, size, size))
    expected = [source.shape[-1] for source in [*sources, *extras(x)[1]]]
    assert source_sizes(backbone, extras, size) == expected


def test_l2_norm_gives_every_pixel_the_length_of_its_scale() -> None:
    norm = L2Norm(6, scale=20)
    assert norm(torch.randn(2, 6, 3, 3)).norm(dim=1).tolist() == [[[pytest.approx(20, rel=1e-5)] * 3] * 3] * 2
    zeros = torch.zeros(1, 6, 2, 2, requires_grad=True)
    norm(zeros).sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_head_orders_rows_of_cells_then_the_boxes_of_a_cell() -> None:
    head = Head([5], boxes_per_cell=[2], outputs=3)
    source = torch.randn(1, 5, 4, 4)
    raw = head.layers[0](source)
    said = head([source])
    for row, column, box in [(0, 0, 0), (1, 3, 1), (3, 2, 0)]:
        assert torch.equal(said[0, (row * 4 + column) * 2 + box], raw[0, box * 3 : box * 3 + 3, row, column])
