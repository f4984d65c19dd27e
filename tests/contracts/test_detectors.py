"""What every detector in conf/model promises (`robustdet.types.Detector`); a new yaml is tested unasked."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from robustdet.attacks import PGD, DetectorVictim, LInf, image_generators
from robustdet.attacks.objectives import total
from robustdet.cli.building import without_start
from robustdet.cli.composition import CONF, composed
from robustdet.types import Batch, Detector, Targets
from tests.attacks.fakes import state
from tests.detection.conftest import make_target

FULL_SIZE = {  # the classes of the tiny ones, which stand for them here; their own tests are in tests/detection
    "ssd300", "ssd300_coco", "robust_ssd300", "robust_ssd300_coco", "robust_ssd300_cfr", "robust_ssd300_cfr_coco",
}  # fmt: skip
MODELS = sorted({file.stem for file in (CONF / "model").glob("*.yaml")} - FULL_SIZE)
CLASSES = 3


@cache
def config(name: str) -> Any:
    return without_start(composed("train", [f"model={name}"]).model)  # trained weights are not in a checkout


def built(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return instantiate(config(name), num_classes=CLASSES)


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


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


def losses(model: Any, images: torch.Tensor, targets: Targets) -> torch.Tensor:
    return model.losses(model(images), model.assign(targets)).total


def test_it_is_a_detector_of_one_type_in_both_modes(model: Any):
    assert isinstance(model, Detector)
    assert model.num_classes == CLASSES
    batch = batch_for(model)
    raw = model(batch.images)
    count = len(raw.default_boxes)
    assert raw.cls_logits.shape[:2] == (3, count)
    assert raw.cls_logits.shape[2] >= CLASSES + 1
    assert raw.bbox_regression.shape == (3, count, 4)
    assert ((raw.default_boxes >= 0) & (raw.default_boxes <= 1)).all()
    in_training = model.train()(batch.images, torch.Generator().manual_seed(0))
    assert type(in_training) is type(raw)
    assert in_training.cls_logits.shape == raw.cls_logits.shape


def test_an_image_is_seen_alone(model: Any):
    images, targets = (batch := batch_for(model)).images, batch.targets
    with torch.no_grad():
        together, raw = losses(model, images, targets), model(images)
        for place, target in enumerate(targets):
            own = images[place : place + 1]
            torch.testing.assert_close(losses(model, own, [target])[0], together[place], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(model(own).cls_logits[0], raw.cls_logits[place], rtol=1e-3, atol=1e-3)
        assert torch.equal(model(images).cls_logits, raw.cls_logits)  # a pure function


def test_its_losses_are_parts_of_one_another(model: Any):
    batch = batch_for(model)
    with torch.no_grad():
        raw, assignment = model(batch.images), model.assign(batch.targets)
        found, each = model.losses(raw, assignment), model.box_losses(raw, assignment)
    positive = assignment.labels > 0
    assert torch.equal(found.num_positives, positive.sum(dim=1))
    assert not positive[2].any()
    torch.testing.assert_close(found.localization, model.localization(raw, assignment))
    assert each.cross_entropy.shape == each.smooth_l1.shape == positive.shape
    assert not each.smooth_l1[~positive].any()
    assert set(assignment.labels[1].tolist()) == {0, 2}  # the difficult one is no target


def test_it_detects_in_pixels_best_first(model: Any):
    batch = batch_for(model)
    with torch.no_grad():
        raw = model(batch.images)
        for found in model.detect(raw):
            assert ((found.labels >= 1) & (found.labels <= CLASSES)).all()
            assert (found.scores.diff() <= 0).all()
            assert ((found.scores >= 0) & (found.scores <= 1)).all()
        boxes = torch.stack([batch.targets[0].boxes[:1]] * 3)
        overlaps = model.overlaps(raw, boxes)
    assert overlaps.shape == (3, len(raw.default_boxes), 1)
    assert overlaps.max() > 0.2  # in the same pixels as the objects


def test_it_is_attacked_and_given_back_as_it_was(model: Any):
    batch = batch_for(model)
    before = state(model)
    generators = image_generators(0, [target.image_id for target in batch.targets])
    attacked = PGD(total, LInf("8/255"), 3, "2/255")(DetectorVictim(model), batch.images, batch.targets, generators)
    assert state(model) == before
    with torch.no_grad():
        raised = losses(model, attacked, batch.targets) > losses(model, batch.images, batch.targets)
    assert raised[:2].all()


def test_its_weights_load_into_another(name: str, model: Any):
    other = built(name, seed=5)
    other.load_state_dict(model.state_dict())
    images = batch_for(model).images
    assert torch.equal(other.eval()(images).cls_logits, model(images).cls_logits)


def test_it_learns(name: str):
    model = built(name).train()
    batch = batch_for(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    seen = []
    for _ in range(8):
        optimizer.zero_grad()
        found = model.losses(model(batch.images, torch.Generator().manual_seed(0)), model.assign(batch.targets))
        loss = found.per_positive(found.total)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.8 * seen[0], seen
