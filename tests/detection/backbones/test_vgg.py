from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from robustdet.detection.backbones.vgg import VGG16
from robustdet.errors import InputError, MissingFileError
from tests.detection.conftest import Build

VGG = "64 64 M 128 128 M 256 256 256 C 512 512 512^ M 512 512 512 P 1024d6 1024k1^"
Save = Callable[[dict[str, Tensor]], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(state: dict[str, Tensor]) -> Path:
        torch.save(state, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return write


@pytest.fixture(scope="module")
def backbone() -> VGG16:
    return VGG16(VGG)


@pytest.fixture(scope="module")
def features() -> dict[str, Tensor]:
    known = torchvision.models.vgg16(weights=None).features.state_dict()
    return {f"features.{name}": tensor for name, tensor in known.items()}


def test_ssd_pytorchs_file_fills_every_tensor(backbone: VGG16, save: Save) -> None:
    state = {name.removeprefix("layers."): torch.randn_like(tensor) for name, tensor in backbone.state_dict().items()}
    backbone.load(save(state))
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[name.removeprefix("layers.")])


def test_torchvisions_features_leave_conv6_and_conv7_random_and_say_so(
    backbone: VGG16, features: dict[str, Tensor], save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    file = features | {
        f"classifier.{name}": torch.tensor([float("nan")])  # so does the file of torchvision that SSD needs
        for name in ("0.weight", "0.bias", "3.weight", "3.bias", "6.weight", "6.bias")
    }
    before = backbone.layers[31].weight.clone()
    with caplog.at_level(logging.WARNING):
        backbone.load(save(file))
    assert "no values for layers.31.weight, layers.31.bias, layers.33.weight, layers.33.bias: they stay" in caplog.text
    assert torch.equal(backbone.layers[21].weight, features["features.21.weight"])
    assert torch.equal(backbone.layers[31].weight, before)


def test_fully_connected_layers_are_decimated(
    backbone: VGG16, features: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fc6 = torch.arange(4096.0).view(-1, 1, 1, 1) + torch.arange(49.0).view(7, 7) / 100
    file = features | {
        "classifier.0.weight": fc6.expand(4096, 512, 7, 7).reshape(4096, -1),
        "classifier.0.bias": torch.arange(4096.0),
        "classifier.3.weight": torch.arange(4096.0).view(-1, 1) + torch.arange(4096.0) / 8192,
        "classifier.3.bias": -torch.arange(4096.0),
        "classifier.6.weight": torch.zeros(1000, 4096),
        "classifier.6.bias": torch.zeros(1000),
    }
    (tmp_path / "vgg16.pth").touch()
    monkeypatch.setattr(torch, "load", lambda *_, **__: file)  # half a gigabyte need not touch the disk
    backbone.load(tmp_path / "vgg16.pth")
    conv6, conv7 = backbone.layers[31], backbone.layers[33]
    assert conv6.weight[5, 100].tolist() == [
        [pytest.approx(20 + (7 * y + x) / 100) for x in (0, 3, 6)] for y in (0, 3, 6)
    ]
    assert conv6.bias[5] == 20
    assert conv7.weight[5, 7, 0, 0] == 20 + 28 / 8192
    assert conv7.bias[7] == -28


def test_a_missing_file_says_what_else_there_is(build: Build, tmp_path: Path) -> None:
    said = r"model.weights=.*absent.pth: no such file. Also possible: model.weights=imagenet \(torchvision's .*vgg16"
    with pytest.raises(MissingFileError, match=said):
        build("ssd300", [f"weights={tmp_path / 'absent.pth'}"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>404</html>", "is no checkpoint that is safe to read"),
        (b"", "is no checkpoint that is safe to read"),
        (b"PK\x03\x04 half a file", "is no checkpoint that is safe to read"),
        ([1, 2], "holds a list, expected tensors by name"),
        ({"state_dict": {}}, "is no file of weights: expected tensors by name"),
        ({"conv1.weight": torch.zeros(1)}, r"holds no VGG16: expected tensors named features.0.weight"),
    ],
)
def test_a_file_of_something_else_is_named(backbone: VGG16, tmp_path: Path, content: object, said: str) -> None:
    file = tmp_path / "other.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=rf"other\.pth {said}"):
        backbone.load(file)


def test_tensors_that_do_not_fit_are_all_named(backbone: VGG16, save: Save) -> None:
    state = {name.removeprefix("layers."): tensor for name, tensor in backbone.state_dict().items()}
    del state["2.bias"]
    state |= {"35.weight": torch.zeros(1), "0.weight": torch.zeros(64, 1, 3, 3)}
    with pytest.raises(
        ValueError,
        match=r"does not fit this network:\n  missing: layers.2.bias\n  left over: layers.35.weight\n"
        r"  layers.0.weight has shape \(64, 1, 3, 3\) instead of \(64, 3, 3, 3\)",
    ):
        backbone.load(save(state))


def test_the_detector_loads_what_its_yaml_names(build: Build, backbone: VGG16, save: Save) -> None:
    state = {name.removeprefix("layers."): tensor for name, tensor in backbone.state_dict().items()}
    ssd = build("ssd300", [f"weights={save(state)}"])
    assert torch.equal(ssd.backbone.layers[21].weight, backbone.layers[21].weight)
