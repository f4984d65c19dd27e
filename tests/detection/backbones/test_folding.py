from __future__ import annotations

import pytest
import torch
from torch import nn

from robustdet.detection.backbones.folding import fold, folded


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 6])
def test_one_convolution_computes_what_two_layers_did(bias: bool, groups: int) -> None:
    conv = nn.Conv2d(6, 12, 3, stride=2, padding=2, dilation=2, groups=groups, bias=bias).double()
    norm = nn.BatchNorm2d(12, eps=1e-3).double()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.1, 3)
    x = torch.randn(2, 6, 17, 17, dtype=torch.float64)
    expected = norm.eval()(conv(x))
    torch.testing.assert_close(fold(conv, norm).double()(x), expected, rtol=1e-5, atol=1e-5)


def test_other_layers_stay_in_their_places() -> None:
    parts = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU6(inplace=True)), nn.MaxPool2d(2))
    layers = folded([parts])
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU6, nn.MaxPool2d]
    assert layers[1] is not parts[1][1]


def test_a_norm_needs_a_convolution_before_it_and_fixed_statistics() -> None:
    with pytest.raises(TypeError, match=r"folded into the convolution before it, but before it stands ReLU\(\)"):
        folded([nn.ReLU(), nn.BatchNorm2d(4)])
    with pytest.raises(TypeError, match="has no fixed statistics to fold"):
        fold(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
