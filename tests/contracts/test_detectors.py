"""What every detector in conf/model promises (`robustdet.types.Detector`); a new yaml is tested unasked."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from robustdet.attacks import PGD, DetectorVictim, LInf, image_generators
from robustdet.attacks.objectives import total
from robustdet.cli.building import without_start
from robustdet.cli.composition import CONF, composed
from robustdet.cli.foreign import offered
from robustdet.evaluation.first_look import require_promises
from robustdet.interop.foreign import ForeignDetector
from robustdet.types import OFFERS, Batch, Detector, Offer, RawPredictions, ScoredPredictions, Targets, offers
from tests.attacks.fakes import state
from tests.detection.conftest import make_target
from tests.interop import networks
from tests.slowness import quick

FULL_SIZE = {  # the classes of the tiny ones, which stand for them here; their own tests are in tests/detection
    "ssd300", "ssd300_coco", "robust_ssd300", "robust_ssd300_coco", "robust_ssd300_cfr", "robust_ssd300_cfr_coco",
}  # fmt: skip
DETACHED = {"rt_detr"}  # where a random network's gradient, without what its training detaches, leads nowhere
DEAR = {  # to compute; each has a cheaper relative: robust_fasterrcnn, fcos, resnet_ssd, tiny_robust_ssd_cfr
    "robust_fcos", "ssdlite320_mobilenet_v3_large", "retinanet_resnet18_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn",
    "robust_resnet_ssd", "robust_mobilenet_ssd", "robust_mobilenet_ssd_cfr",
}  # fmt: skip
CLASSES = 3


@dataclass(frozen=True)
class Case:
    """A yaml with what makes it small."""

    model: str
    overrides: tuple[str, ...] = ()

    @cached_property
    def config(self) -> Any:
        # trained weights are not in a checkout
        return without_start(composed("train", [f"model={self.model}", *self.overrides]).model)

    @cached_property
    def offer(self) -> Offer:
        """What the detector's class says it offers, without building it."""
        return offered(OmegaConf.create({"model": self.config}))


def torchvisions(name: str, model: str = "torchvision", *more: str) -> Case:
    fields = networks.settings(name)
    given = tuple(f"model.{key}={'null' if value is None else value}" for key, value in fields.items())
    return Case(model, (*given, *more))


def robust(name: str, *more: str) -> Case:
    return torchvisions(name, "robust_torchvision", "model.num_kernels=2", *more)


def transformers(name: str) -> Case:
    config = networks.as_override(networks.TRANSFORMERS[name])
    size = f"model.input_size={networks.SIZE}"
    return Case("transformers", (f"model.name={name}", "model.weights=null", f"model.config={config}", size))


def smaller(yaml: str) -> Case:
    """Of photographs' detectors the smallest input, and half the kernels."""
    if "mobilenet" not in yaml and "resnet" not in yaml:
        return Case(yaml)
    return Case(yaml, ("model.input_size=96", *(["model.num_kernels=2"] if "robust" in yaml else [])))


FOREIGN = {  # by yaml: what has to be said of somebody else's detectors
    "torchvision": {name: torchvisions(name) for name in networks.NAMES},
    "robust_torchvision": {
        "robust_fasterrcnn": robust(networks.FAST),
        "robust_fcos": robust("fcos_resnet18_fpn", "model.cfr={_target_: robustdet.defences.cfr.CFR, tap: 2}"),
    },
    "black_box": {
        "function": Case(
            "black_box",
            ("model.name=bright", "model.function.path=tests.interop.networks.bright_boxes", "model.input_size=64"),
        )
    },
    "transformers": {name: transformers(name) for name in networks.TRANSFORMERS},
    "onnx": {},  # needs a file and a library: tests/interop/test_onnx.py
}
CASES = {
    name: case
    for yaml in sorted({file.stem for file in (CONF / "model").glob("*.yaml")} - FULL_SIZE)
    for name, case in FOREIGN.get(yaml, {yaml: smaller(yaml)}).items()
}


@cache
def prototype(name: str, seed: int) -> Any:
    if CASES[name].model == "transformers":
        pytest.importorskip("transformers", reason=networks.NEEDS_TRANSFORMERS)
    torch.manual_seed(seed)
    model = instantiate(CASES[name].config, num_classes=CLASSES)
    return networks.lively(model) if "torchvision" in CASES[name].model else model


def built(name: str, seed: int = 0) -> Any:
    return copy.deepcopy(prototype(name, seed))


def of_those_that_offer(*offers: Offer) -> pytest.MarkDecorator:
    names = [name for name, case in CASES.items() if case.offer in offers]
    return pytest.mark.parametrize("name", quick(names, lambda name: name not in DEAR))


every_detector = of_those_that_offer(*OFFERS)
with_losses = of_those_that_offer("losses", "scores")
with_scores = of_those_that_offer("scores")


@pytest.fixture
def model(name: str) -> Any:
    return built(name).eval()


def batch_for(model: Any) -> Batch:
    """Two objects; one and a difficult one; none."""
    size = model.input_size
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    boxes = [[[0.1, 0.1, 0.45, 0.4], [0.5, 0.4, 0.95, 0.9]], [[0.2, 0.1, 0.7, 0.6], [0.0, 0.6, 0.3, 0.9]], []]
    marks: list[dict[str, Any]] = [{"labels": [1, 3]}, {"labels": [2, 1], "difficult": [1]}, {}]
    return Batch(
        images,
        [
            make_target([[edge * size for edge in box] for box in of], image_id=str(place), **mark)
            for place, (of, mark) in enumerate(zip(boxes, marks, strict=True))
        ],
    )


def said(model: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """Of each image what it says of its places, as equal scores come in any order; else its detections."""
    raw = model(images)
    if isinstance(raw, ScoredPredictions):
        return list(raw.log_probabilities)
    return [torch.cat([one.boxes.flatten(), one.scores, one.labels]) for one in model.detect(raw)]


def losses(model: Any, images: torch.Tensor, targets: Targets) -> torch.Tensor:
    return model.losses(model(images), model.assign(targets)).total


@every_detector
def test_it_is_a_detector_and_offers_what_it_says(name: str, model: Any):
    assert isinstance(model, Detector)
    assert model.num_classes == CLASSES
    assert offers(model) == CASES[name].offer
    require_promises(model, batch_for(model))
    images = batch_for(model).images
    assert type(model.train()(images, torch.Generator().manual_seed(0))) is type(model.eval()(images))


@with_scores
def test_its_raw_predictions_are_of_one_type_in_both_modes(model: Any):
    batch = batch_for(model)
    raw = model(batch.images)
    said, labels = raw.log_probabilities, model.assign(batch.targets).labels
    assert said.shape[:2] == labels.shape
    assert said.shape[2] >= CLASSES + 1
    assert (said <= 0).all()
    if raw.exclusive:
        torch.testing.assert_close(said.exp().sum(dim=-1), torch.ones_like(said[..., 0]))
    if isinstance(raw, RawPredictions):
        assert raw.bbox_regression.shape == (*labels.shape, 4)
        assert ((raw.default_boxes >= 0) & (raw.default_boxes <= 1)).all()
    in_training = model.train()(batch.images, torch.Generator().manual_seed(0))
    assert type(in_training) is type(raw)
    assert in_training.log_probabilities.shape == said.shape


@every_detector
def test_it_says_of_an_image_alone_what_it_says_beside_others(name: str, model: Any):
    images = batch_for(model).images
    with torch.no_grad():
        together = said(model, images)
        for place, found in enumerate(together):
            torch.testing.assert_close(
                said(model, images[place : place + 1])[0],
                found,
                rtol=1e-3,
                atol=1e-3 if CASES[name].offer == "scores" else 0.05,
            )
        assert all(map(torch.equal, said(model, images), together))  # a pure function


@with_losses
def test_the_losses_of_an_image_are_its_own(model: Any):
    images, targets = (batch := batch_for(model)).images, batch.targets
    with torch.no_grad():
        together = losses(model, images, targets)
        for place, target in enumerate(targets):
            own = images[place : place + 1]
            torch.testing.assert_close(losses(model, own, [target])[0], together[place], rtol=1e-3, atol=1e-4)
        assert torch.equal(losses(model, images, targets), together)
    count = model.losses(model(images), model.assign(targets)).num_positives
    assert (count > 0).tolist() == [True, True, False]


@with_losses
def test_the_scores_of_its_detections_carry_gradients(model: Any):
    images = batch_for(model).images.requires_grad_()
    scores = torch.cat([one.scores for one in model.detect(model(images))])
    if len(scores):
        (gradient,) = torch.autograd.grad(scores.sum(), images)
        assert gradient.abs().sum() > 0


@with_scores
def test_its_losses_are_parts_of_one_another(model: Any):
    batch = batch_for(model)
    with torch.no_grad():
        raw, assignment = model(batch.images), model.assign(batch.targets)
        found, each = model.losses(raw, assignment), model.box_losses(raw, assignment)
    positive = assignment.labels > 0
    if not isinstance(model, ForeignDetector):  # whose losses are divided already
        assert torch.equal(found.num_positives, positive.sum(dim=1))
    assert (found.num_positives > 0).tolist() == [True, True, False]
    assert not positive[2].any()
    torch.testing.assert_close(found.localization, model.localization(raw, assignment))
    assert each.cross_entropy.shape == each.localization.shape == positive.shape
    assert not each.localization[~positive].any()
    assert set(assignment.labels[1].tolist()) == {0, 2}  # the difficult one is no target


@every_detector
def test_it_detects_best_first(model: Any):
    with torch.no_grad():
        for found in model.detect(model(batch_for(model).images)):
            assert ((found.labels >= 1) & (found.labels <= CLASSES)).all()
            assert (found.scores.diff() <= 0).all()
            assert ((found.scores >= 0) & (found.scores <= 1)).all()


@with_scores
def test_its_boxes_are_in_pixels(model: Any):
    batch = batch_for(model)
    with torch.no_grad():
        raw = model(batch.images)
        boxes = torch.stack([batch.targets[0].boxes[:1]] * 3)
        overlaps = model.overlaps(raw, boxes)
    assert overlaps.shape == (*raw.log_probabilities.shape[:2], 1)
    assert overlaps.max() > 0.03  # in the same pixels as the objects


@with_losses
def test_it_is_attacked_and_given_back_as_it_was(name: str, model: Any):
    batch = batch_for(model)
    before = state(model)
    generators = image_generators(0, [target.image_id for target in batch.targets])
    attacked = PGD(total, LInf("8/255"), 3, "0.5/255")(DetectorVictim(model), batch.images, batch.targets, generators)
    assert state(model) == before
    with torch.no_grad():
        raised = losses(model, attacked, batch.targets) > losses(model, batch.images, batch.targets)
    assert raised[:2].all() or name in DETACHED


@with_losses
def test_its_weights_load_into_another(name: str, model: Any):
    other = built(name, seed=5).eval()
    batch = batch_for(model)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(losses(other, batch.images, batch.targets), losses(model, batch.images, batch.targets))


@pytest.mark.slow
@with_losses
def test_it_learns(name: str):
    model = built(name).train()
    batch = batch_for(model)
    large = isinstance(model, ForeignDetector)  # and random, under norms that do not learn: short steps, few of them
    adam, descent = torch.optim.Adam, torch.optim.SGD
    optimizer = (descent if large else adam)(model.parameters(), lr=0.02 if large else 1e-3)
    seen = []
    for _ in range(3 if large else 8):
        optimizer.zero_grad()
        found = model.losses(model(batch.images, torch.Generator().manual_seed(0)), model.assign(batch.targets))
        loss = found.per_positive(found.total)
        loss.backward()
        if large:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < (1 if large else 0.8) * seen[0], seen
