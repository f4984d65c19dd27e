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
from tests.contracts.named_attacks import NAMES
from tests.contracts.test_attacks import DECLARED, load
from tests.contracts.test_detectors import CLASSES, batch_for, built
from tests.detection.conftest import build_detector
from tests.gpu.comparing import Comparisons, unequal_share

STEPS = 3
MOST_UNEQUAL = 0.01  # of the pixels
# By the share of pixels that may differ: ART computes so, and some signs of gradients are another device's. Autocast to
# bfloat16 leaves double precision alone; of factors of 8 bits the signs of many small gradients are another device's.
IN_SINGLE = {"art_pgd": 0.05, "bfloat16": 0.3}


WITHOUT_CHANCE = "jpeg"  # it asks neither a network nor a generator: untouched images are its control


def that_detects(seed: int) -> Any:
    """A network that sees objects everywhere, some of them of the right class: DAG attacks no other boxes."""
    torch.manual_seed(seed)
    return build_detector("tiny_robust_ssd", ["background_bias=-3"], num_classes=CLASSES)


def attacked(name: str, model: Any, surrogate: Any, batch: Batch, seed: int = 0) -> Tensor:
    attack = load(name, most_steps=STEPS, surrogate=surrogate)
    generators = image_generators(seed, [target.image_id for target in batch.targets])
    return attack(DetectorVictim(model), batch.images, batch.targets, generators)


def moved(model: Any, device: torch.device, dtype: torch.dtype, channels_last: bool = False) -> tuple[Any, Batch]:
    """Copies there; ``channels_last`` is another computation of the same, for a CPU that is compared with itself."""
    batch = batch_for(model).to(device)
    targets = copy.deepcopy(batch.targets)
    for target in targets:
        target.boxes = target.boxes.to(dtype)
    there = copy.deepcopy(model).to(device, dtype)
    if channels_last:
        lay_channels_last(there)
    return there, Batch(batch.images.to(dtype), targets)


@pytest.mark.parametrize("name", NAMES)
def test_its_images_are_those_of_the_cpu(name: str, device: torch.device, compare: Comparisons):
    if name.startswith("art_"):
        pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    model, other = (that_detects(seed) for seed in (0, 1))
    surrogate = built("tiny_ssd").eval()
    cpu, dtype = torch.device("cpu"), torch.float32 if name in IN_SINGLE else torch.float64
    (here, batch), (there, sent) = moved(model, cpu, dtype), moved(model, device, dtype, device == cpu)
    reference = attacked(name, here, moved(surrogate, cpu, dtype)[0], batch)
    found = attacked(name, there, moved(surrogate, device, dtype)[0], sent)
    changed = moved(built("tiny_ssd", 1).eval(), device, dtype)[0]
    wrong = (
        sent.images if name == WITHOUT_CHANCE else attacked(name, moved(other, device, dtype)[0], changed, sent, seed=1)
    )
    assert found.device.type == device.type
    assert (found - sent.images).abs().max() <= (DECLARED[name].threat.epsilon or 1) + 1e-9
    tolerance = IN_SINGLE.get(name, MOST_UNEQUAL)
    shares = unequal_share(reference, found), unequal_share(reference, wrong)
    assert compare.trouble("attack", f"{name}, share of pixels", shares[0], tolerance, shares[1]) is None
