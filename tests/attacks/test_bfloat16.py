"""Attacks in bfloat16: what is rounded, what is not, and how little that moves the images of a smooth victim."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustdet.attacks import MTD, PGD, Adaptive, BFloat16, DetectorVictim, LInf, Noise, image_generators
from robustdet.attacks.adaptive import uniform
from robustdet.attacks.objectives import total
from robustdet.defences.schedules import Replay
from robustdet.types import Batch, StepwiseAttack
from tests.attacks import fakes

BALL = LInf("8/255")


def run(attack: Any, detector: Any) -> torch.Tensor:
    images, targets = fakes.batch()
    return attack(DetectorVictim(detector), images, targets, image_generators(0, [t.image_id for t in targets]))


def dtypes_of(detector: Any, attack: Any) -> tuple[set[torch.dtype], set[torch.dtype]]:
    """Of what the detector's last convolution says, and of the logits that losses are made of."""
    inside, outside = set(), set()
    handle = detector.cls_head.register_forward_hook(lambda *seen: inside.add(seen[2].dtype))
    box_losses = detector.box_losses
    detector.box_losses = lambda raw, assignment: outside.add(raw.cls_logits.dtype) or box_losses(raw, assignment)
    run(attack, detector)
    handle.remove()
    return inside, outside


def test_the_network_computes_in_bfloat16_and_its_losses_in_float32():
    attack = PGD(total, BALL, 2, "2/255")
    assert dtypes_of(fakes.detector(), attack) == ({torch.float32}, {torch.float32})
    assert dtypes_of(fakes.detector(), BFloat16(attack)) == ({torch.bfloat16}, {torch.float32})


def test_what_is_asked_inside_a_trainer_s_autocast_is_full_precision_without_it():
    with torch.autocast("cpu", torch.bfloat16):
        assert dtypes_of(fakes.detector(), PGD(total, BALL, 1, "2/255"))[0] == {torch.float32}


@pytest.mark.parametrize("victim", [fakes.FakeDetector, fakes.RoutedFake])
@pytest.mark.parametrize("attack", [PGD(total, BALL, 10, "2/255"), MTD(BALL, 10, "2/255")], ids=["PGD", "MTD"])
def test_the_loss_it_reaches_is_within_two_hundredths(attack: Any, victim: type):
    detector, (_, targets) = fakes.detector(victim), fakes.batch()
    full, rounded = run(attack, detector), run(BFloat16(attack), detector)
    assert not torch.equal(full, rounded)
    with DetectorVictim(detector).borrow(targets) as model:
        expected, reached = (model.losses(images).total.sum().item() for images in (full, rounded))
    assert reached == pytest.approx(expected, rel=0.02)


def test_a_routing_that_an_attack_chooses_reaches_the_victim():
    detector = fakes.detector(fakes.RoutedFake)
    inner, outer = PGD(total, BALL, 3, "2/255"), []
    for attack in (Adaptive(BFloat16(inner), uniform), BFloat16(Adaptive(inner, uniform))):
        outer.append(run(attack, detector))
    assert torch.equal(*outer)
    assert not torch.equal(outer[0], run(BFloat16(inner), detector))


def test_it_steps_in_a_schedule_and_says_what_its_attack_says():
    attack = BFloat16(MTD(BALL, 20, "2/255"))
    assert isinstance(attack, StepwiseAttack)
    images, targets = fakes.batch()
    replay = Replay(attack, updates_per_source=20, step_sizes=["2/255"])
    moved = replay.next(fakes.detector(), Batch(images, targets), torch.Generator()).images - images
    assert moved.abs().max().item() == pytest.approx(2 / 255, abs=1e-6)
    assert attack.threat is BALL
    assert attack.knowledge == "gradients"
    noise = BFloat16(Noise(BALL, "sign"))
    assert noise.knowledge == "nothing"
    assert not isinstance(noise, StepwiseAttack)
