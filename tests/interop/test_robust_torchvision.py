"""RobustDet on torchvision's detectors: what they were before, how they route, and that all of it learns."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustdet.attacks import image_generators
from robustdet.attacks.objectives import a_cls
from robustdet.attacks.victim import DetectorVictim, input_gradient
from robustdet.cli.composition import composed
from robustdet.cli.foreign import clean_model
from robustdet.cli.instantiating import instantiate
from robustdet.data.shapes import draw_scene
from robustdet.defences.aa_conv import AAConv2d
from robustdet.defences.aid import AdversarialImageDiscriminator, HighPass, SmallTrunk
from robustdet.defences.cfr import CFR
from robustdet.defences.gaussian_block import GaussianBlock, Tap
from robustdet.defences.routed import Routed, RoutedDetector
from robustdet.errors import InputError, NumericalError
from robustdet.interop.robust_torchvision import RobustTorchvision
from robustdet.interop.torchvision_models import TorchvisionModel
from robustdet.types import Batch
from tests.detection.conftest import make_target
from tests.interop.networks import FAST, SIZE, lively, settings

FCOS, RETINANET = "fcos_resnet18_fpn", "retinanet_resnet18_fpn"
ROUTES = torch.tensor([[1.0, 0.0], [0.3, 0.7]])


def aid() -> nn.Module:
    return AdversarialImageDiscriminator(SmallTrunk(2, width=4), HighPass())


@cache
def plain(name: str) -> TorchvisionModel:
    torch.manual_seed(0)
    return lively(TorchvisionModel(**settings(name), num_classes=3))  # type: ignore[arg-type]


def robust(name: str = FCOS, perturbation: float = 0.3, **more: Any) -> RobustTorchvision:
    torch.manual_seed(1)
    given = settings(name) | {"num_classes": 3, "num_kernels": 2, "perturbation": perturbation, "aid": aid()} | more
    model = RobustTorchvision(**given)
    model.warm_start(plain(name).state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def routed() -> RobustTorchvision:
    return robust(cfr=CFR(tap=2))


def images() -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def targets() -> list[Any]:
    return [make_target([[5, 5, 40, 50]], [1]), make_target([[8, 20, 60, 60], [30, 2, 50, 20]], [3, 2])]


@pytest.mark.parametrize("name", [FAST, RETINANET, FCOS])
@torch.no_grad()
def test_with_equal_kernels_it_is_the_network_that_it_starts_from_whatever_the_route(name: str):
    before, after = plain(name), robust(name, perturbation=0.0)
    raw, ours = before(images()), after(images(), routing=ROUTES)
    expected, found = (model.losses(said, model.assign(targets())) for model, said in ((before, raw), (after, ours)))
    torch.testing.assert_close(found.classification, expected.classification, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.localization, expected.localization, rtol=1e-4, atol=1e-5)
    for one, other in zip(before.detect(raw), after.detect(ours), strict=True):
        torch.testing.assert_close(other.scores, one.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.boxes, one.boxes, rtol=1e-3, atol=1e-2)


@torch.no_grad()
def test_an_image_goes_its_own_route_in_a_batch_too(routed: RobustTorchvision):
    together = routed(images(), routing=ROUTES)
    losses = routed.losses(together, routed.assign(targets())).total
    for place in range(2):
        alone = routed(images()[place : place + 1], routing=ROUTES[place : place + 1])
        own = routed.losses(alone, routed.assign(targets()[place : place + 1])).total
        torch.testing.assert_close(own[0], losses[place], rtol=1e-4, atol=1e-5)
    other = routed(images(), routing=ROUTES.flip(0))
    assert not torch.allclose(routed.losses(other, routed.assign(targets())).total, losses, rtol=1e-3)


@torch.no_grad()
def test_the_discriminator_routes_and_samples_are_drawn_with_a_generator_alone(routed: RobustTorchvision):
    raw = routed(images())
    assert isinstance(routed, RoutedDetector)
    assert isinstance(raw, Routed)
    torch.testing.assert_close(raw.routing, routed.aid(images()))
    assert raw.mean is not None
    assert raw.mean.shape == (2, 128, SIZE // 8, SIZE // 8)
    assert raw.log_variance is None
    assert raw.reconstruction is None
    drawn, again = (routed(images(), torch.Generator().manual_seed(5)) for _ in range(2))
    assert drawn.reconstruction is not None
    assert drawn.log_variance is not None
    assert drawn.reconstruction.shape == images().shape
    for level, values in drawn.features.items():
        assert torch.equal(again.features[level], values)
        assert not torch.allclose(values, raw.features[level])


def test_the_gradient_of_a_loss_reaches_pixels_by_the_discriminator_too(routed: RobustTorchvision):
    with DetectorVictim(routed).borrow(targets()) as victim:
        pixels = images().requires_grad_()
        raw = victim.predict(pixels)
        assert input_gradient(victim.losses_of(raw).total, pixels, retain_graph=True).abs().sum() > 0
        assert input_gradient(raw.routing[:, 0], pixels).abs().sum() > 0
        assert a_cls(victim, images()).shape == (2,)


def shapes(count: int) -> Batch:
    scenes = [draw_scene(np.random.default_rng(seed), 96) for seed in range(count)]
    pictures = torch.stack([torch.from_numpy(one.image).permute(2, 0, 1) / 255 for one in scenes])
    marks = [make_target(one.boxes.tolist(), one.labels.tolist(), image_id=f"{one.areas}") for one in scenes]
    return Batch(pictures, marks)


@pytest.mark.slow
def test_an_update_of_robustdet_on_shapes_teaches_every_kernel_the_discriminator_and_the_decoder():
    cfg = composed("train", [
        "model=robust_torchvision", f"model.name={FCOS}", "model.weights=null", "model.aid.trunk.weights=null",
        "model.input_size=96", "model.min_size=96", "model.num_kernels=2",
        "model.cfr={_target_: robustdet.defences.cfr.CFR, tap: 2}",
        "method=robustdet", "attack=mtd", "schedule=replay", "data=shapes",
    ])  # fmt: skip
    torch.manual_seed(0)
    model = instantiate(cfg.model, num_classes=6).train()
    output = instantiate(cfg.method).step(model, shapes(2), torch.Generator().manual_seed(0))
    assert {"L_det", "L_aid", "L_re", "L_kld", "routing_entropy"} <= output.parts.keys() | output.diagnostics().keys()
    output.loss.backward()
    aware = {name: module for name, module in model.named_modules() if isinstance(module, AAConv2d)}
    assert {name.split(".")[2] for name in aware} == {"body", "fpn", "classification_head", "regression_head"}
    for name, module in aware.items():
        assert (module.weight.grad.flatten(1).abs().sum(dim=1) > 0).all(), name
    for part in (model.aid, model.decoder):
        assert all(parameter.grad is not None for parameter in part.parameters())
        assert any(parameter.grad.abs().sum() > 0 for parameter in part.parameters())
    assert not any(isinstance(module, AAConv2d) for module in (*model.aid.modules(), *model.decoder.modules()))


def test_which_convolutions_are_aware_is_a_choice():
    def aware(which: Any) -> set[str]:
        model = robust(adversarially_aware=which)
        return {name for name, module in model.named_modules() if isinstance(module, AAConv2d)}

    assert all(name.startswith("network.head.") for name in aware("heads"))
    some = aware(4)
    assert {name.split(".")[3] for name in some if ".body." in name} == {"layer4"}
    assert {"backbone", "head"} == {name.split(".")[1] for name in some}
    with pytest.raises(InputError, match=r"model\.adversarially_aware=5: expected all, heads or one .* 0 to 4"):
        aware(5)


def test_norms_of_the_network_keep_their_statistics_and_those_of_the_discriminator_learn(routed: RobustTorchvision):
    model = copy.deepcopy(routed).train()
    modes = {name: module.training for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {mode for name, mode in modes.items() if name.startswith("network.")} == {False}
    assert {mode for name, mode in modes.items() if not name.startswith("network.")} == {True}
    with pytest.raises(InputError, match=r"model\.norms=learning: where clean and attacked images share a batch"):
        robust(norms="learning")


def test_what_does_not_fit_is_named(routed: RobustTorchvision):
    state = dict(plain(FCOS).state_dict())
    state.pop("network.backbone.body.conv1.weight")
    with pytest.raises(InputError, match=r"network\.backbone\.body\.conv1\.weight"):
        routed.warm_start(state)
    with pytest.raises(InputError, match=r"model\.cfr\.tap=7: expected the stage of a ResNet, 1 to 4, and fcos"):
        robust(cfr=CFR(tap=7))


@pytest.mark.slow
def test_it_learns_other_classes_than_it_came_with():
    model = robust(classes=["cat", "dog", "bird"], weights=None)
    model.learn(["dog", "fish"])
    assert model.num_classes == 2
    head: Any = model.network.head
    assert head.classification_head.cls_logits.weight.shape[:2] == (2, 3)  # kernels, outputs
    assert len(model.detect(model.eval()(images()))) == 2


def test_features_that_are_not_finite_are_an_error_that_names_the_layer(routed: RobustTorchvision):
    model = copy.deepcopy(routed).train()
    with torch.no_grad():
        model.network.backbone.body.layer3[0].conv1.weight.fill_(torch.nan)  # type: ignore[union-attr,index]
    with pytest.raises(NumericalError, match=r"not finite, first in layer network\.backbone\.body\.layer3\.0\.conv1"):
        model(images())


def test_the_mean_of_a_gaussian_block_is_the_block():
    for name in ("resnet18", "resnet50"):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval()
        block = network.layer2[-1]
        x = torch.rand(2, 128 if name == "resnet18" else 512, 4, 4)
        tap = Tap()
        twin = GaussianBlock(copy.deepcopy(block), tap, 10.0).eval()
        with torch.no_grad(), tap.use(None) as found:
            torch.testing.assert_close(twin(x), block(x))
        assert found.log_variance is None
        with pytest.raises(RuntimeError, match="without a tap in use"):
            twin(x)


def test_its_clean_stage_is_the_plain_detector():
    cfg = composed("train", ["model=robust_torchvision", f"model.name={FCOS}", "model.input_size=96"]).model
    clean = clean_model(cfg)
    assert clean._target_.endswith("TorchvisionModel")
    assert (clean.name, clean.input_size, clean.norms) == (FCOS, 96, "frozen")
    assert not {"aid", "cfr", "num_kernels"} & clean.keys()
    other = composed("train", ["model=tiny_ssd"]).model
    assert clean_model(other) is other


def test_another_resnet_has_no_coco_weights_and_a_stranger_is_refused():
    with pytest.raises(InputError, match=r"model\.weights=coco: torchvision has no trained fcos_resnet18_fpn"):
        TorchvisionModel(**settings(FCOS) | {"weights": "coco"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"fcos_resnet19_fpn: torchvision has no such detector.* such as fcos_res"):
        TorchvisionModel(**settings("fcos_resnet19_fpn"), num_classes=3)  # type: ignore[arg-type]


def test_two_steps_of_an_attack_that_knows_the_discriminator(routed: RobustTorchvision):
    attack = instantiate(composed("evaluate", ["suite=quick", "attack=aid_steer_loss", "attack.attack.steps=2"]).attack)
    generators = image_generators(0, ["a", "b"])
    attacked = attack(DetectorVictim(routed), images(), targets(), generators)
    assert attack.needs == "losses"
    assert 0 < (attacked - images()).abs().max() <= 8 / 255 + 1e-6
