"""MobileNetV2 and ResNet without norms against torchvision's with norms, and the files that they start from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import (
    MobileNet_V2_Weights,
    ResNet18_Weights,
    ResNet50_Weights,
    mobilenet_v2,
    resnet18,
    resnet50,
)

from robustdet.cli.composition import composed
from robustdet.detection.backbones.classifier import Classifier
from robustdet.detection.backbones.mobilenet import MobileNetV2
from robustdet.detection.backbones.resnet import ResNet
from robustdet.errors import InputError
from tests.detection.conftest import Build, build_detector

Theirs = Callable[[nn.Module, Tensor], list[Tensor]]


def mobilenets(network: nn.Module, x: Tensor) -> list[Tensor]:
    features = network.features
    return [features[: last + 1](x) for last in (6, 13, 17)]


def resnets(network: nn.Module, x: Tensor) -> list[Tensor]:
    x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
    maps = []
    for stage in (network.layer2, network.layer3, network.layer4):
        x = stage(x)
        maps.append(x)
    return maps


CASES: list[tuple[Callable[[], Classifier], Callable[..., nn.Module], Theirs]] = [
    (MobileNetV2, mobilenet_v2, mobilenets),
    (lambda: ResNet(18), resnet18, resnets),
    (lambda: ResNet(50), resnet50, resnets),
]


def trained(make: Callable[..., nn.Module]) -> nn.Module:
    """A network whose norms have seen images, so that folding has something to do."""
    torch.manual_seed(0)
    network = make(weights=None).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(4):
            network(torch.randn(8, 3, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def mobilenet() -> dict[str, Tensor]:
    return trained(mobilenet_v2).state_dict()


def saved(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize(("make", "theirs", "maps"), CASES, ids=["mobilenet_v2", "resnet18", "resnet50"])
def test_without_norms_it_computes_what_torchvisions_does_in_evaluation(
    make: Callable[[], Classifier], theirs: Callable[..., nn.Module], maps: Theirs, tmp_path: Path
) -> None:
    backbone, network = make(), trained(theirs)
    backbone.load(saved(network.state_dict(), tmp_path))
    assert not [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected, (last, found) = maps(network, x), backbone(x)
    assert [one.shape[1] for one in found] == list(backbone.sources.values())
    assert [96 // one.shape[-1] for one in found] == [8, 16, 32]
    assert torch.equal(last, found[-1])
    assert backbone.out_channels == last.shape[1]
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_each_names_torchvisions_weights() -> None:
    assert MobileNetV2().trained is MobileNet_V2_Weights.IMAGENET1K_V1
    assert ResNet(18).trained is ResNet18_Weights.IMAGENET1K_V1
    assert ResNet(50).trained is ResNet50_Weights.IMAGENET1K_V1


def test_its_detector_feeds_what_these_were_trained_on() -> None:
    normalisation = composed("train", ["model=mobilenet_ssd"]).model.normalisation
    for weights in (MobileNet_V2_Weights.IMAGENET1K_V1, ResNet18_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V1):
        transforms = weights.transforms()
        assert [255 * value for value in transforms.mean] == pytest.approx(list(normalisation.mean))
        assert [255 * value for value in transforms.std] == pytest.approx(list(normalisation.std))


def test_older_names_in_the_same_order_are_paired(mobilenet: dict[str, Tensor], tmp_path: Path) -> None:
    older = {  # features.2.conv.1.0.weight was features.2.conv.3.weight; counts and classifier may be missing
        f"net.{place}.{name.rpartition('.')[2]}": tensor
        for place, (name, tensor) in enumerate(mobilenet.items())
        if name.startswith("features.") and not name.endswith("num_batches_tracked")
    }
    one, other = MobileNetV2(), MobileNetV2()
    one.load(saved(mobilenet, tmp_path))
    other.load(saved(older, tmp_path))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_names_decide_where_they_are_torchvisions(mobilenet: dict[str, Tensor], tmp_path: Path) -> None:
    one, other = MobileNetV2(), MobileNetV2()
    one.load(saved(mobilenet, tmp_path))
    other.load(saved(dict(sorted(mobilenet.items())), tmp_path))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_another_networks_weights_are_refused(mobilenet: dict[str, Tensor], tmp_path: Path) -> None:
    file = saved(resnet18(weights=None).state_dict(), tmp_path)
    with pytest.raises(InputError) as told:
        MobileNetV2().load(file)
    assert str(told.value) == (
        f"{file} holds no MobileNetV2: expected its 260 tensors under torchvision's names or in their order, and found "
        "102. The first that differs: conv1.weight [64, 3, 7, 7] in place of features.0.0.weight [32, 3, 3, 3]"
    )
    with pytest.raises(InputError, match=r"weights.pth holds no ResNet: expected its 100 tensors"):
        ResNet(18).load(saved(mobilenet, tmp_path))
    with pytest.raises(InputError, match=r"holds no ResNet: expected its 265 tensors .* and found 100"):
        ResNet(50).load(saved(resnet18(weights=None).state_dict(), tmp_path))


def test_a_file_that_lacks_or_adds_tensors_is_refused(mobilenet: dict[str, Tensor], tmp_path: Path) -> None:
    few = dict(list(mobilenet.items())[:100])
    with pytest.raises(InputError, match=r"found 84\. The first that differs: nothing \[\] in place of features\.6\."):
        MobileNetV2().load(saved(few, tmp_path))
    more = {f"x.{name}": tensor for name, tensor in mobilenet.items() if name.startswith("features.")}
    with pytest.raises(InputError, match=r"found 261\. The first that differs: extra.weight \[1\] in place of nothing"):
        MobileNetV2().load(saved(more | {"extra.weight": torch.zeros(1)}, tmp_path))


@pytest.mark.parametrize("length", [0, 1000])
def test_half_a_file_is_told(mobilenet: dict[str, Tensor], tmp_path: Path, length: int, build: Build) -> None:
    file = saved(mobilenet, tmp_path)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match=rf"^{re.escape(str(file))} is no checkpoint that is safe to read: it is "):
        build("mobilenet_ssd", [f"weights={file}"])


@pytest.mark.parametrize(("size", "boxes"), [(96, 866), (128, 1524), (160, 2402), (320, 9536)])
def test_it_takes_sizes_from_96_to_320(size: int, boxes: int, build: Build) -> None:
    detector = build("mobilenet_ssd", [f"input_size={size}"])
    assert len(detector.default_boxes) == boxes
    with torch.no_grad():
        assert detector(torch.rand(1, 3, size, size)).cls_logits.shape == (1, boxes, 21)


@pytest.mark.parametrize("size", [64, 95, 321])
def test_a_size_that_it_does_not_take_is_told(size: int, build: Build) -> None:
    said = rf"^model.input_size={size}: MobileNetV2 takes images of 96 to 320 pixels a side$"
    with pytest.raises(InputError, match=said):
        build("mobilenet_ssd", [f"input_size={size}"])


def test_a_plan_says_what_is_too_small_for_it() -> None:
    with pytest.raises(InputError, match=r"^model.input_size=32 is too small for the network's layers: "):
        build_detector("ssd300", ["input_size=32"])


def test_the_deeper_resnet_wants_other_extras(build: Build) -> None:
    with pytest.raises(InputError, match=r"extras.in_channels is 512, but the backbone ends with 2048"):
        build("resnet_ssd", ["backbone.depth=50"])
    assert build("resnet_ssd", ["backbone.depth=50", "extras.in_channels=2048"]).backbone.depth == 50


@pytest.mark.parametrize("name", ["mobilenet_ssd", "resnet_ssd"])
def test_from_random_weights_maps_stay_of_unit_size(name: str) -> None:
    torch.manual_seed(0)
    model = composed("train", [f"model={name}"]).model
    model.weights = None
    detector = instantiate(model, num_classes=3)
    with torch.no_grad():
        for source in detector.features(detector.normalisation(torch.rand(2, 3, 128, 128))):
            assert 0.05 < source.std() < 20


@pytest.mark.parametrize("make", [case[0] for case in CASES], ids=["mobilenet", "resnet18", "resnet50"])
def test_no_activation_copies_what_it_overwrites(make: Callable[[], Classifier]):
    """As autograd does for one in place whose gradient needs its input."""
    backbone, seen = make(), set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    with Seen():
        backbone(torch.rand(1, 3, *[max(96, min(backbone.input_sizes))] * 2))
    assert torch.ops.aten.convolution in seen
    assert not seen & {torch.ops.aten.clone, torch.ops.aten.copy_}
