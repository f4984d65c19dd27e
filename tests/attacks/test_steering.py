import pytest
import torch

from robustdet.attacks.objectives import prepared, total
from robustdet.attacks.outranking import Outranking
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.steering import Steering
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from tests.attacks import fakes

THREAT = LInf("8/255")


def generators() -> list[torch.Generator]:
    return image_generators(0, ["two", "one", "none"])


@pytest.fixture
def scene():
    images, targets = fakes.batch()
    return fakes.detector(fakes.RoutedFake), images, targets


@pytest.mark.parametrize("kernel", [0, 2])
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_is_the_objective_under_one_kernel_and_the_log_of_its_share(scene, kernel, weight):
    detector, images, targets = scene
    place = images.flip(-1)
    with DetectorVictim(detector).borrow(targets) as model, torch.no_grad():
        value = prepared(Steering(total, kernel, weight), model, images)(model, place)
        alone = torch.eye(3)[kernel].expand(3, 3)
        hurt = detector.losses(detector(place, routing=alone), model.assignment).total
        share = detector(place).routing[:, kernel]
    assert torch.allclose(value, hurt + weight * share.log(), rtol=1e-5)


def test_a_large_weight_leads_the_discriminator_to_the_kernel(scene):
    detector, images, targets = scene
    for kernel in range(3):
        shares = []
        for weight in (0.0, 100.0):
            attack = PGD(Steering(Outranking(), kernel, weight), THREAT, 10, "2/255")
            with torch.no_grad():
                attacked = attack(DetectorVictim(detector), images, targets, generators())
                shares.append(detector.eval()(attacked).routing[:, kernel].sum())
        assert shares[1] > shares[0]


def test_may_be_steered_first_and_hurt_then(scene):
    """Stages of an attack are attacks that start where the one before has got to."""
    detector, images, targets = scene
    victim = DetectorVictim(detector)
    first = PGD(Steering(Outranking(), 1, 100.0), THREAT, 5, "1/255")
    second = PGD(Steering(Outranking(), 1, 1.0), THREAT, 3, "1/255", start=first)
    by_hand = first(victim, images, targets, generators())
    with victim.borrow(targets) as model:
        for _ in range(3):
            by_hand = second.step(model, by_hand, images)
    assert torch.equal(second(victim, images, targets, generators()), by_hand)


def test_a_kernel_that_is_not_there_is_named(scene):
    detector, images, targets = scene
    attack = PGD(Steering(total, 7), THREAT, 1, "2/255")
    with pytest.raises(ValueError, match="the victim has kernels 0 to 2, the attack wants kernel 7"):
        attack(DetectorVictim(detector), images, targets, generators())


def test_a_victim_that_does_not_route_is_refused(scene):
    _, images, targets = scene
    attack = PGD(Steering(total, 0), THREAT, 1, "2/255")
    with pytest.raises(TypeError, match="Steering needs a victim that routes its images"):
        attack(DetectorVictim(fakes.detector()), images, targets, generators())
