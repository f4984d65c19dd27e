"""Every attack: the device's images are the CPU's, in double precision, where no gradient changes its sign."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from robustdet.attacks import DetectorVictim, image_generators
from robustdet.training.levers import lay_channels_last
from robustdet.types import Batch
from tests.contracts.test_attacks import DECLARED, NAMES, load
from tests.contracts.test_detectors import CLASSES, batch_for, built
from tests.detection.conftest import build_detector
from tests.gpu.comparing import Comparisons, unequal_share

STEPS = 3
MOST_UNEQUAL = 0.01  # of the pixels
IN_BFLOAT16 = {"bfloat16": 0.3}  # rounded to 8 bits on purpose: the signs of many small gradients are another device's


WITHOUT_CHANCE = "jpeg"  # it asks neither a network nor a generator: untouched images are its control


def that_detects(seed: int) -> Any:
    """A network that sees objects everywhere, some of them of the right class: DAG attacks no other boxes."""
    torch.manual_seed(seed)
    return build_detector("tiny_robust_ssd", ["background_bias=-3"], num_classes=CLASSES)


def attacked(name: str, model: Any, surrogate: Any, batch: Batch, seed: int = 0) -> Tensor:
    attack = load(name, most_steps=STEPS, surrogate=surrogate)
    generators = image_generators(seed, [target.image_id for target in batch.targets])
    return attack(DetectorVictim(model), batch.images, batch.targets, generators)


def in_double(model: Any, device: torch.device, channels_last: bool = False) -> tuple[Any, Batch]:
    """Copies there; ``channels_last`` is another computation of the same, for a CPU that is compared with itself."""
    batch = batch_for(model).to(device)
    targets = copy.deepcopy(batch.targets)
    for target in targets:
        target.boxes = target.boxes.double()
    moved = copy.deepcopy(model).to(device).double()
    if channels_last:
        lay_channels_last(moved)
    return moved, Batch(batch.images.double(), targets)


@pytest.mark.parametrize("name", NAMES)
def test_its_images_are_those_of_the_cpu(name: str, device: torch.device, compare: Comparisons):
    model, other = (that_detects(seed) for seed in (0, 1))
    surrogate = built("tiny_ssd").eval()
    cpu = torch.device("cpu")
    (here, batch), (there, sent) = in_double(model, cpu), in_double(model, device, channels_last=device == cpu)
    reference = attacked(name, here, in_double(surrogate, cpu)[0], batch)
    found = attacked(name, there, in_double(surrogate, device)[0], sent)
    changed = in_double(built("tiny_ssd", 1).eval(), device)[0]
    wrong = (
        sent.images if name == WITHOUT_CHANCE else attacked(name, in_double(other, device)[0], changed, sent, seed=1)
    )
    assert found.device.type == device.type
    assert (found - sent.images).abs().max() <= (DECLARED[name].threat.epsilon or 1) + 1e-9
    tolerance = IN_BFLOAT16.get(name, MOST_UNEQUAL)
    shares = unequal_share(reference, found), unequal_share(reference, wrong)
    compare.require("attack", f"{name}, share of pixels", shares[0], tolerance, shares[1])
