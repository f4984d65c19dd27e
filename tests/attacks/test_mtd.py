import pytest
import torch

from robustdet.attacks.mtd import MTD
from robustdet.attacks.objectives import a_cls, a_loc, total
from robustdet.attacks.pgd import PGD
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from tests.attacks import fakes

THREAT = LInf("8/255")


def candidates(model, images):
    by_cls, by_loc = (PGD(task, THREAT, 1, "8/255").step(model, images, images) for task in (a_cls, a_loc))
    return by_cls, by_loc, total(model, by_cls), total(model, by_loc)


@pytest.fixture
def contested():
    return contested_batch()


def contested_batch():
    """A detector and images of which one loses more by its classification and another by its localisation."""
    detector, (images, targets) = fakes.detector(), fakes.batch()
    victim = DetectorVictim(detector)
    for _ in range(80):
        with torch.no_grad():
            detector.box_head.weight.mul_(1.05)
        with victim.borrow(targets) as model:
            _, _, cls, loc = candidates(model, images)
        if (cls > loc)[:2].sum() == 1:
            return victim, images, targets
    raise AssertionError("no scale at which the images disagree")


def test_each_image_keeps_the_task_that_hurts_it_more(contested):
    victim, images, targets = contested
    with victim.borrow(targets) as model:
        by_cls, by_loc, cls, loc = candidates(model, images)
        moved = MTD(THREAT, 1, "8/255").step(model, images, images)
    for i in range(len(images)):
        assert torch.equal(moved[i], by_cls[i] if cls[i] >= loc[i] else by_loc[i])


def test_a_batch_keeps_one_task_for_all(contested):
    victim, images, targets = contested
    with victim.borrow(targets) as model:
        by_cls, by_loc, cls, loc = candidates(model, images)
        moved = MTD(THREAT, 1, "8/255", choice="batch").step(model, images, images)
    assert torch.equal(moved, by_cls if cls.sum() >= loc.sum() else by_loc)


def test_a_step_costs_three_forwards(contested):
    victim, images, targets = contested
    calls = []
    handle = victim.detector.register_forward_hook(lambda *_: calls.append(1))
    with victim.borrow(targets) as model:
        MTD(THREAT, 1, "8/255").step(model, images, images)
    handle.remove()
    assert len(calls) == 3


def test_an_attack_is_its_steps_with_any_step_size(contested):
    victim, images, targets = contested
    attack, adversarial = MTD(THREAT, 3, "8/255"), images
    with victim.borrow(targets) as model:
        for _ in range(3):
            adversarial = attack.step(model, adversarial, images, torch.full((3,), 2 / 255))
    expected = MTD(THREAT, 3, "2/255")(victim, images, targets, [])
    torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)


def test_a_choice_that_does_not_exist_is_named():
    with pytest.raises(Exception, match="object"):
        MTD(THREAT, 1, "8/255", choice="object")


def forwards(victim, attack, images, targets):
    """How often the detector ran, and what came out."""
    calls = []
    handle = victim.detector.register_forward_hook(lambda *_: calls.append(1))
    attacked = attack(victim, images, targets, [])
    handle.remove()
    return len(calls), attacked


def stepwise(victim, attack, images, targets):
    adversarial = images
    with victim.borrow(targets) as model:
        for _ in range(attack.steps):
            adversarial = attack.step(model, adversarial, images)
    return adversarial


def test_between_steps_the_chosen_candidate_s_forward_is_the_next_one_s(contested):
    victim, images, targets = contested
    for attack, part in ((MTD(THREAT, 4, "2/255"), slice(0, 1)), (MTD(THREAT, 4, "2/255", choice="batch"), slice(3))):
        count, attacked = forwards(victim, attack, images[part], targets[part])
        assert count == 1 + 4 * 2
        assert torch.equal(attacked, stepwise(victim, attack, images[part], targets[part]))
        assert not attacked.requires_grad


def test_image_after_image_is_the_same_attack_with_fewer_forwards(contested):
    victim, images, targets = contested
    batched = forwards(victim, MTD(THREAT, 4, "2/255", one_by_one=False), images, targets)
    single = forwards(victim, MTD(THREAT, 4, "2/255", one_by_one=True), images, targets)
    assert batched[0] == 4 * 3
    assert single[0] == len(images) * (1 + 4 * 2)
    torch.testing.assert_close(single[1], batched[1], rtol=0, atol=1e-6)


def test_large_images_on_a_cpu_go_one_by_one():
    attack = MTD(THREAT, 1, "8/255")
    assert attack._one_by_one(torch.zeros(2, 3, 300, 300))
    assert not attack._one_by_one(torch.zeros(2, 3, 96, 96))


def test_no_steps_return_the_images(contested):
    victim, images, targets = contested
    for part in (slice(3), slice(0, 1)):
        assert torch.equal(MTD(THREAT, 0, "8/255")(victim, images[part], targets[part], []), images[part])
