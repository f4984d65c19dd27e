from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustdet.defences.aa_conv import AAConv2d
from robustdet.defences.robust_ssd import RobustSSD
from robustdet.errors import InputError
from robustdet.types import Detector
from tests.detection.conftest import build_detector

NETWORKS = ["tiny_robust_ssd", "tiny_robust_ssd_cfr"]
THIN = ["+backbone.width=0.0625", "+extras.width=0.0625", "extras.in_channels=64"]


@pytest.fixture(scope="module")
def fresh() -> dict[str, RobustSSD]:
    return {name: build_detector(name) for name in [*NETWORKS, "tiny_ssd"]}


@pytest.fixture(params=NETWORKS)
def network(fresh: dict[str, RobustSSD], request: pytest.FixtureRequest) -> RobustSSD:
    return copy.deepcopy(fresh[request.param])


@pytest.fixture
def robustdet_star(fresh: dict[str, RobustSSD]) -> RobustSSD:
    return copy.deepcopy(fresh["tiny_robust_ssd_cfr"])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def one_hot(*kernels: int) -> Tensor:
    return torch.eye(4)[list(kernels)]


@pytest.mark.parametrize(("name", "expected"), [("robust_ssd300", 35), ("robust_ssd300_cfr", 36)])
def test_every_convolution_of_the_detector_is_adversarially_aware(name: str, expected: int) -> None:
    """VGG 15, extras 8, heads 12, and one more for the log-variance; the AID and the decoder stay plain."""
    network = build_detector(name, THIN)
    assert sum(isinstance(module, AAConv2d) for module in network.modules()) == expected
    plain = {module for module in network.modules() if isinstance(module, nn.Conv2d)}
    own = [network.aid] if network.decoder is None else [network.aid, network.decoder]
    assert plain == {module for part in own for module in part.modules() if isinstance(module, nn.Conv2d)}


BACKBONE, PROJECTION = 52 - 1, 15  # MobileNetV2's convolutions that a detector has; layer of CFR's tap


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("all", BACKBONE + 4 + 10),
        ("heads", 10),
        (0, BACKBONE + 4 + 10),
        (PROJECTION, 40 + 4 + 10),
        ("late", 36 + 4 + 10),
        (44, 1 + 4 + 10),
    ],
)
def test_where_convolutions_are_adversarially_aware_is_a_choice(which: str | int, expected: int) -> None:
    network = build_detector("robust_mobilenet_ssd", [f"adversarially_aware={which}"])
    aware = [name for name, module in network.named_modules() if isinstance(module, AAConv2d)]
    assert len(aware) == expected
    if isinstance(which, int):
        own = [name.split(".")[2] for name in aware if name.startswith("backbone.layers.")]
        assert min(map(int, own)) == which
    plain = build_detector("mobilenet_ssd")
    network.warm_start(plain.state_dict())
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_logits, logits = plain(images).cls_logits, network(images, routing=one_hot(1, 2)).cls_logits
    assert not torch.equal(logits, expected_logits)  # the copies are perturbed
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=0.5 * float(expected_logits.std()))


@pytest.mark.parametrize(("name", "tap"), [("tiny_robust_ssd", 11), ("tiny_robust_ssd_cfr", 11)])
def test_late_begins_at_what_first_predicts_with_cfr_at_its_tap(name: str, tap: int) -> None:
    layers = build_detector(name, ["adversarially_aware=late"]).backbone.layers
    aware = [any(isinstance(part, AAConv2d) for part in layer.modules()) for layer in layers]
    assert aware.index(True) == tap
    kinds = [type(part) for part in layers[tap].modules() if isinstance(part, nn.Conv2d | AAConv2d)]
    assert kinds == [AAConv2d] * (2 if name.endswith("cfr") else 1)


@pytest.mark.parametrize("name", ["tiny_robust_ssd", "tiny_robust_ssd_cfr"])
def test_plain_layers_are_passed_once_whatever_the_routes(name: str, images: Tensor) -> None:
    network, seen = build_detector(name, ["adversarially_aware=late"]), []
    network.backbone.layers[0].register_forward_hook(lambda *_: seen.append(1))
    routes = one_hot(1, 3, 0)
    with torch.no_grad():
        raw, expected = network(images), network(images, routing=routes)
        again = network(images, routing=routes, plain=raw.plain)
    assert len(seen) == 2
    torch.testing.assert_close(again.cls_logits, expected.cls_logits)
    with torch.no_grad():
        assert build_detector(name)(images).plain is None


def test_a_layer_that_is_not_there_is_told() -> None:
    said = r"^model.adversarially_aware=45: expected all, late, heads or one of the backbone's layers, 0 to 44$"
    with pytest.raises(InputError, match=said):
        build_detector("robust_mobilenet_ssd", ["adversarially_aware=45"])


@pytest.mark.parametrize("which", ["all", "heads", 16])
def test_cfr_on_mobilenet_takes_all_that_predicts(which: str | int) -> None:
    """Every source changes with the sample, and the decoder makes an image of the input's size."""
    network = build_detector("robust_mobilenet_ssd_cfr", [f"adversarially_aware={which}", "input_size=96"]).train()
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (network(images, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert one.mean.shape == one.log_variance.shape == (2, 32, 12, 12)
    assert torch.equal(one.mean, other.mean)
    assert one.reconstruction.shape == images.shape
    assert ((one.cls_logits - other.cls_logits).abs().amax(dim=(0, 2)) > 0).all()


def test_cfr_on_resnet_has_no_convolution_to_replace() -> None:
    with pytest.raises(InputError, match=r"^CFR replaces a convolution, but layer 4 of the backbone is Residual"):
        build_detector("robust_resnet_ssd", ["cfr={_target_: robustdet.defences.cfr.CFR, tap: 4}"])


def test_it_is_a_detector_and_its_routing_is_the_aids(network: RobustSSD, images: Tensor) -> None:
    assert isinstance(network, Detector)
    with torch.no_grad():
        raw = network(images)
        torch.testing.assert_close(raw.routing, network.aid(images))
    assert raw.cls_logits.shape == (3, 760, 21)


def test_a_batch_equals_its_images_one_by_one(network: RobustSSD, images: Tensor) -> None:
    with torch.no_grad():
        together = network(images)
        for i in range(3):
            alone = network(images[i : i + 1])
            torch.testing.assert_close(alone.cls_logits, together.cls_logits[i : i + 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone.routing, together.routing[i : i + 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_copies_of_a_clean_ssd_compute_what_it_does(fresh, name: str, images: Tensor) -> None:
    clean = fresh["tiny_ssd"]
    network = copy.deepcopy(fresh[name])
    network.perturbation = 0.0
    network.warm_start(clean.state_dict())
    with torch.no_grad():
        expected = clean(images)
        for routing in (None, one_hot(0, 1, 3)):
            raw = network(images, routing=routing)
            torch.testing.assert_close(raw.cls_logits, expected.cls_logits, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(raw.bbox_regression, expected.bbox_regression, rtol=1e-4, atol=1e-4)


def test_warm_start_touches_what_a_clean_ssd_has_and_nothing_else(fresh, robustdet_star: RobustSSD) -> None:
    before = copy.deepcopy(robustdet_star.state_dict())
    clean = fresh["tiny_ssd"].state_dict()
    robustdet_star.warm_start(clean)
    once = copy.deepcopy(robustdet_star.state_dict())
    robustdet_star.warm_start(clean)
    for name, tensor in robustdet_star.state_dict().items():
        assert torch.equal(tensor, once[name]), f"{name} is not the same when started twice"
        untouched = name.startswith(("aid.", "decoder.")) or ".conv_log_variance." in name
        assert torch.equal(tensor, before[name]) == (untouched or name.endswith(".bias")), name
    weight, copies = clean["backbone.layers.11.weight"], once["backbone.layers.11.conv_mean.weight"]
    torch.testing.assert_close((copies - weight).std(), 0.01 * weight.std(), rtol=0.05, atol=0)


def test_given_routing_replaces_the_aid(network: RobustSSD, images: Tensor) -> None:
    """With one-hot routing the network is that of the kernels chosen, and the AID is not asked."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, AAConv2d):
                module.weight[2] *= 1.5
        normal = network(images, routing=one_hot(0, 0, 0))
        network.aid.forward = lambda images: pytest.fail("the AID was asked")
        mixed = network(images, routing=one_hot(0, 2, 0))
    difference = (mixed.cls_logits - normal.cls_logits).abs().amax(dim=(1, 2))
    assert difference[1] > 0.1
    assert difference[[0, 2]].max() < 1e-4
    assert torch.equal(mixed.routing, one_hot(0, 2, 0))


def test_the_attackers_gradient_goes_through_the_aid(network: RobustSSD, images: Tensor) -> None:
    images.requires_grad_()
    whole = network(images)
    (through,) = torch.autograd.grad(whole.cls_logits.square().sum(), images)
    (around,) = torch.autograd.grad(network(images, routing=whole.routing.detach()).cls_logits.square().sum(), images)
    assert not torch.allclose(through, around, rtol=1e-3)


def test_features_are_sampled_and_decoded_only_with_a_generator(robustdet_star: RobustSSD, images: Tensor) -> None:
    with torch.no_grad():
        one, same = (robustdet_star(images, torch.Generator().manual_seed(1)) for _ in range(2))
        other = robustdet_star(images, torch.Generator().manual_seed(2))
        assert torch.equal(one.cls_logits, same.cls_logits)
        assert not torch.allclose(one.cls_logits, other.cls_logits)
        torch.testing.assert_close(one.mean, other.mean)
        assert one.mean.shape == one.log_variance.shape == (3, 64, 12, 12)
        assert one.mean.min() < 0  # no ReLU has worked on it in place
        assert one.reconstruction.shape == images.shape
        robustdet_star.decoder.forward = lambda z: pytest.fail("the decoder ran")
        exact = robustdet_star(images)
    assert exact.log_variance is None
    assert exact.reconstruction is None
    torch.testing.assert_close(exact.mean, one.mean)


def test_a_reconstruction_is_on_the_scale_of_images(robustdet_star: RobustSSD, images: Tensor) -> None:
    """The decoder speaks of mean-subtracted pixels, ±160 of 255, whatever standard deviation the network is fed."""
    mean = robustdet_star.normalisation.mean.expand(1, 3, 96, 96)
    for tanh in (0.0, 0.5, -1.0):
        robustdet_star.decoder.forward = lambda z, tanh=tanh: torch.full((len(z), 3, 92, 92), tanh)
        image = robustdet_star.reconstruct(torch.zeros(1, 64, 12, 12))
        torch.testing.assert_close(image, (mean + 160 * tanh) / 255)


def test_sigma_starts_near_one(robustdet_star: RobustSSD, images: Tensor) -> None:
    with torch.no_grad():
        log_variance = robustdet_star(images, torch.Generator()).log_variance
    assert log_variance.abs().mean() < 0.5


def test_training_reaches_every_parameter(robustdet_star: RobustSSD, images: Tensor) -> None:
    raw = robustdet_star.train()(images, torch.Generator())
    (
        raw.cls_logits.square().mean() + raw.bbox_regression.square().mean() + raw.reconstruction.square().mean()
    ).backward()
    without = [name for name, parameter in robustdet_star.named_parameters() if parameter.grad is None]
    assert without == []


def poison(module: Any) -> None:
    with torch.no_grad():
        module.weight.fill_(float("nan"))


@pytest.mark.parametrize(
    "layer", ["backbone.layers.4", "extras.layers.0", "regression_head.layers.1", "aid.trunk.2.0", "aid.trunk.6"]
)
def test_what_is_not_finite_names_the_first_layer_to_blame(network: RobustSSD, layer: str, images: Tensor) -> None:
    poison(network.get_submodule(layer))
    with torch.no_grad(), pytest.raises(FloatingPointError, match=rf"not finite, first in layer {layer}$"):
        network.train()(images)
    assert not any(module._forward_hooks for module in network.modules())


def test_images_that_are_not_finite_are_blamed_themselves(network: RobustSSD, images: Tensor) -> None:
    with torch.no_grad():
        network.train()(images)
        images[0, 0, 0, 0] = float("nan")
        with pytest.raises(FloatingPointError, match="not finite, and so are the images"):
            network(images)


def test_errors_name_the_culprit(fresh: dict[str, RobustSSD]) -> None:
    with pytest.raises(Exception, match=r"CFR replaces a convolution, but layer 12 of the backbone is ReLU"):
        build_detector("tiny_robust_ssd_cfr", ["cfr.tap=12"])
    with pytest.raises(ValueError, match="built without CFR and has no decoder"):
        fresh["tiny_robust_ssd"].reconstruct(torch.zeros(1, 64, 12, 12))


@pytest.mark.parametrize("size", [128, 160])
def test_other_input_sizes(build: Callable[..., Any], size: int) -> None:
    network = build("tiny_robust_ssd_cfr", [f"input_size={size}"])
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert network(images, torch.Generator()).reconstruction.shape == images.shape


@pytest.mark.parametrize("name", NETWORKS)
def test_the_published_codes_way_with_nan_hides_it_in_the_first_layers_only(name: str, images: Tensor) -> None:
    network = build_detector(name, ["nan_to_zero=5"])
    silent = build_detector(name)
    silent.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network(images).cls_logits, silent(images).cls_logits)
        poison(network.backbone.layers[4])
        poison(silent.backbone.layers[4])
        silent.backbone.layers[4].weight.zero_()
        silent.backbone.layers[4].bias.zero_()
        torch.testing.assert_close(network(images).cls_logits, silent(images).cls_logits)
        poison(network.backbone.layers[6])
        with pytest.raises(FloatingPointError, match=r"first in layer backbone\.layers\.6"):
            network.train()(images)
