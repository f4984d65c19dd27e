"""Attacks and measurements on a device without float64 give what they give on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from robustdet import exact as module
from robustdet.attacks import PGD, LInf
from robustdet.attacks.objectives import a_cls
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import L2
from robustdet.attacks.victim import DetectorVictim
from robustdet.evaluation.measuring import measure
from robustdet.exact import exact
from robustdet.types import Attack, Batch
from tests.analysis.figures.conftest import SIZE, detector
from tests.evaluation import scenes
from tests.without_float64 import DEVICE, There, WithoutFloat64


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    monkeypatch.setattr(module, "WITHOUT_FLOAT64", {DEVICE.type})
    with WithoutFloat64():
        yield DEVICE


def test_the_device_refuses_what_apples_does(device: torch.device):
    values = torch.rand(3).to(device)
    assert isinstance(values, There)
    for refused in (lambda: values.double(), lambda: torch.zeros(2, dtype=torch.float64, device=device)):
        with pytest.raises(TypeError, match="float64"):
            refused()
    with pytest.raises(RuntimeError, match="same device"):
        values + torch.rand(3)
    assert torch.equal((values + values).cpu(), 2 * values.cpu())


def test_float64_is_where_it_can_be(device: torch.device):
    assert exact(torch.rand(3).to(device)).device.type == "cpu"
    assert exact(torch.rand(3).to(device)).dtype == torch.float64


@pytest.mark.parametrize("threat", [LInf("8/255"), L2("4/255")], ids=["LInf", "L2"])
def test_images_are_drawn_and_projected_as_on_the_cpu(threat: LInf | L2, device: torch.device):
    generator = torch.Generator().manual_seed(0)
    clean, far = (torch.rand(2, 3, 8, 8, generator=generator) for _ in range(2))
    drawn = [threat.uniform(images, image_generators(0, ["a", "b"])) for images in (clean, clean.to(device))]
    projected = [threat.project(far.to(images.device), images) for images in (clean, clean.to(device))]
    for here, there in (drawn, projected):
        assert there.device == device
        assert torch.equal(there.cpu(), here)


def test_an_attack_and_all_that_is_measured_of_it(monkeypatch: pytest.MonkeyPatch, one_thread: None):
    attack = PGD(a_cls, LInf("8/255"), steps=3, step_size="2/255", random_start=True)
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    targets = [scenes.target(f"image{i}", [[20.0, 20.0, 60.0, 70.0]], [1]) for i in range(2)]
    here = outcome(attack, Batch(images, targets), torch.device("cpu"))
    monkeypatch.setattr(module, "WITHOUT_FLOAT64", {DEVICE.type})
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which "meta" has none of, and "mps" has
    with WithoutFloat64():
        there = outcome(attack, Batch(images, targets), DEVICE)
    assert torch.equal(there[0], here[0])
    assert [one.boxes.tolist() for one in there[1]] == [one.boxes.tolist() for one in here[1]]
    assert there[2] == here[2]


def outcome(attack: Attack, batch: Batch, device: torch.device) -> tuple:
    model = detector().to(device)
    batch = batch.to(device)
    generators = image_generators(0, [target.image_id for target in batch.targets], "attack")
    attacked = attack(DetectorVictim(model), batch.images, batch.targets, generators)
    assert attacked.device == device
    found, measures = measure(model, attack, batch, attacked)
    return attacked.cpu(), found, measures
