"""Nobody waits for the device in a step: every attack, every method and the measures, counted on one that only counts.

What an attack does once, at its door or in its preparation, is not a step; who goes by detections, of which only the
device knows how many there are, waits for them, and is named here.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from torch.optim.lr_scheduler import ConstantLR

from robustdet.attacks import DetectorVictim, LInf, image_generators
from robustdet.defences.standard import Standard
from robustdet.evaluation.attacked import AttackFailedError, require_admissible
from robustdet.evaluation.measuring import measure
from robustdet.training.averaging import MovingAverage
from robustdet.training.finite import EVERY
from robustdet.training.module import DetectionModule
from robustdet.training.preemption import Preemption
from robustdet.types import Batch
from tests.contracts.named_attacks import NAMES, OF_EACH_KIND
from tests.contracts.test_attacks import DECLARED, load
from tests.contracts.test_methods import PAIRS, batch, composed
from tests.counted_device import DEVICE, Counts, counted, on_device
from tests.detection.conftest import build_detector, random_target
from tests.slowness import quick

IMAGES = 2
STEPS = 2
DETECT = 2 + IMAGES  # of the detections of a batch: which boxes, how many an image, and suppression image by image
BY_DETECTIONS = {
    "ap_surrogate",
    "ap_surrogate_from_loss",
    "among_others",
    "among_others_adam",
    "among_others_on",
    "square_detections",
    "patch_ap",
}
ONCE = {  # besides the door
    "jpeg": IMAGES,  # a library of the host's
    "noise_l2": IMAGES,  # draws alone; a projection may need an edge of the pixel range
    "own_predictions": DETECT + 3 * IMAGES,  # become its targets
}


def given() -> Batch:
    return batch(count=IMAGES).to("meta")


def model_for(name: str) -> torch.nn.Module:
    routed = DECLARED[name].knowledge == "discriminator"
    return on_device(build_detector("tiny_robust_ssd" if routed else "tiny_ssd", num_classes=3))


@pytest.mark.parametrize(
    "name",
    quick(
        (name for name in NAMES if name != "art_pgd"),  # ART works on the host
        lambda name: name in OF_EACH_KIND,
    ),
)
def test_an_attacks_steps_wait_for_nothing(name: str):
    model, images = model_for(name), given()
    attack = load(name, STEPS, on_device(build_detector("tiny_ssd", num_classes=3)))
    with counted() as counts:
        attack(DetectorVictim(model), images.images, images.targets, generators(images))
    if name in BY_DETECTIONS:
        looks = counts.waits - 1
        assert looks % DETECT == 0, counts.where  # and nothing else
        return
    assert counts.waits == 1 + ONCE.get(name, 0), counts.where
    assert counts.drawn <= 5 * images.images.numel() + 10_000  # a start in the ball, once for each climb


def generators(images: Batch) -> list[torch.Generator]:
    return image_generators(0, [target.image_id for target in images.targets])


LAUNCHED = {"standard": 520, "adversarial": 1400, "robustdet": 2200}
"""At most, of an update by `replay`, backward included; of tiny_robust_ssd_cfr on two images."""


@pytest.mark.parametrize(
    ("method", "schedule"),
    [pytest.param(*pair, marks=[] if pair[1] in ("replay", "full") else [pytest.mark.slow]) for pair in PAIRS],
)
def test_a_training_step_waits_for_nothing(method: str, schedule: str):
    model = on_device(build_detector("tiny_robust_ssd_cfr", num_classes=3)).train()
    chosen, images = instantiate(composed(method, schedule).method), given()
    with counted():
        chosen.step(model, images, torch.Generator())  # a source is matched once
    with counted() as counts:
        chosen.step(model, images, torch.Generator()).loss.backward()
    assert counts.waits == 0, counts.where
    assert counts.uploads <= 3, counts.where  # objects, once for each matching
    assert counts.drawn <= 3  # seeds
    if schedule == "replay":
        assert counts.launched <= LAUNCHED[method]


def test_what_surrounds_a_step_waits_when_it_is_due():
    module = DetectionModule(build_detector("tiny_ssd", num_classes=3), Standard(), torch.optim.SGD, ConstantLR, 0)
    on_device(module.model.train())
    module.log_dict = lambda values: None  # type: ignore[method-assign, assignment]
    images = given()
    for update, waits in ((EVERY + 1, 0), (EVERY, 2)):
        module._trainer = SimpleNamespace(  # type: ignore[assignment]
            accumulate_grad_batches=1, global_step=update, precision_plugin=None, log_every_n_steps=1
        )
        with counted() as counts:
            module.training_step(images, 0).backward()
            module.on_before_optimizer_step(torch.optim.SGD([torch.zeros(1)]))
        assert counts.waits == waits, counts.where  # losses, and gradients of the updates before


@pytest.mark.parametrize("one", [Preemption("unused"), MovingAverage(0.99)], ids=lambda one: type(one).__name__)
def test_what_is_called_after_every_update_waits_for_nothing(one: pl.Callback):
    module: Any = DetectionModule(build_detector("tiny_ssd", num_classes=3), Standard(), torch.optim.SGD, ConstantLR, 0)
    module.to(DEVICE)
    trainer: Any = mock.MagicMock(spec=pl.Trainer)
    trainer.strategy.root_device, trainer.global_step, trainer.max_steps = DEVICE, 1, 9
    trainer.fit_loop = mock.MagicMock()
    trainer.fit_loop.epoch_loop._should_check_val_fx.return_value = False
    one.setup(trainer, module, "fit")
    one.on_train_batch_end(trainer, module, None, given(), 0)
    trainer.global_step = 2
    with counted() as counts:
        one.on_train_batch_end(trainer, module, None, given(), 0)
    assert counts.waits == 0, counts.where


def test_matching_is_a_handful_of_launches_for_any_number_of_images():
    model, generator = on_device(build_detector("tiny_ssd", num_classes=3)), torch.Generator().manual_seed(0)
    seen: list[Counts] = []
    for count in (1, 32):
        targets = [replace(random_target(3, 90.0, generator), labels=torch.tensor([1, 2, 3])) for _ in range(count)]
        with counted() as counts:
            model.assign(targets)
        seen.append(counts)
    one, many = seen
    assert one.launched == many.launched <= 80
    assert (many.uploads, many.waits) == (1, 0)


@pytest.mark.parametrize("name", [None, "pgd_total"])
def test_measures_wait_for_detections_a_second_look_and_all_numbers_at_once(name: str | None):
    model, clean = on_device(build_detector("tiny_robust_ssd_cfr", num_classes=3)), given()
    with counted() as counts:
        measure(model, None if name is None else load(name), clean, clean.images + 0)
    assert counts.waits == DETECT + 3, counts.where
    with counted() as counts, suppress(AttackFailedError):  # what is told of them is 0: not finite
        require_admissible(clean.images, clean.images, ["one", "two"], LInf(0.1))
    assert counts.waits == 1, counts.where
