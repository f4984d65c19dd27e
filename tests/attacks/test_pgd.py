from itertools import pairwise

import pytest
import torch

from robustdet.attacks.noise import Noise
from robustdet.attacks.objectives import a_cls, a_loc, total
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from tests.attacks import fakes

EPSILON = 8 / 255


def generators(seed: int = 0) -> list[torch.Generator]:
    return image_generators(seed, ["two", "one", "none"])


def slow_pgd(detector, objective, images, targets, steps: int, step_size: float) -> torch.Tensor:
    """One image at a time, the ball by hand, gradients by backward()."""
    detector.eval()
    results = []
    for image, target in zip(images, targets, strict=True):
        x, assignment = image[None].clone(), detector.assign([target])
        for _ in range(steps):
            x.requires_grad_()
            losses = detector.losses(detector(x), assignment)
            {a_cls: losses.classification, a_loc: losses.localization, total: losses.total}[objective].sum().backward()
            x = (x + step_size * x.grad.sign()).detach()
            x = torch.min(torch.max(x, image - EPSILON), image + EPSILON).clamp(0, 1)
        results.append(x)
    return torch.cat(results)


@pytest.mark.parametrize("objective", [a_cls, a_loc, total])
@pytest.mark.parametrize("step_size", ["8/255", "2/255"])
def test_pgd_does_what_a_slow_loop_does(objective, step_size):
    detector, (images, targets) = fakes.detector(), fakes.batch()
    ours = PGD(objective, LInf("8/255"), 5, step_size)(DetectorVictim(detector), images, targets, generators())
    theirs = slow_pgd(detector, objective, images, targets, 5, {"8/255": 8, "2/255": 2}[step_size] / 255)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", [a_cls, a_loc, total])
@pytest.mark.parametrize("step_size", ["1/255", "8/255"])
def test_on_a_convex_loss_more_steps_are_never_weaker(objective, step_size):
    victim, (images, targets) = fakes.ConvexVictim(), fakes.batch()
    values = [objective(victim, images)]
    for steps in (1, 2, 5, 10, 20):
        attack = PGD(objective, LInf("8/255"), steps, step_size)
        values.append(objective(victim, attack(victim, images, targets, generators())))
    assert all((later >= earlier - 1e-5).all() for earlier, later in pairwise(values))
    assert (values[-1] > values[0]).all()


def test_an_attack_is_its_steps():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    attack = PGD(total, LInf("8/255"), 3, "2/255")
    adversarial = images
    for _ in range(3):
        with victim.borrow(targets) as model:
            adversarial = attack.step(model, adversarial, images)
    assert torch.equal(adversarial, attack(victim, images, targets, generators()))
    assert not adversarial.requires_grad


@pytest.mark.parametrize("step_size", [1 / 255, "1/255", torch.tensor([1.0, 2.0, 4.0]) / 255])
def test_a_step_can_have_its_own_size_even_per_image(step_size):
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    images = images[[0, 1, 0]].clamp(0.1, 0.9)
    with victim.borrow([targets[0], targets[1], targets[0]]) as model:
        moved = PGD(total, LInf("8/255"), 1, "8/255").step(model, images, images, step_size)
    sizes = ((moved - images) * 255).abs().amax(dim=(1, 2, 3))
    expected = [1.0, 2.0, 4.0] if isinstance(step_size, torch.Tensor) else [1.0, 1.0, 1.0]
    assert sizes.tolist() == pytest.approx(expected, rel=1e-4)


def test_values_without_a_gradient_do_not_move():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    attacked = PGD(a_loc, LInf("8/255"), 4, "8/255")(victim, images, targets, generators())
    with victim.borrow(targets) as model:
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(a_loc(model, x).sum(), x)
    assert (gradient[0] == 0).any()
    assert torch.equal(attacked[2], images[2])  # no object, no loss, no gradient
    one = PGD(a_loc, LInf("8/255"), 1, "8/255")(victim, images, targets, generators())
    assert torch.equal(one[gradient == 0], images[gradient == 0])


def test_a_random_start_belongs_to_its_seed_and_image():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    attack = PGD(total, LInf("8/255"), 2, "1/255", random_start=True)
    first, again, other = (attack(victim, images, targets, generators(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    alone = attack(victim, images[1:2], targets[1:2], generators()[1:2])
    torch.testing.assert_close(alone, first[1:2], rtol=0, atol=1e-6)


def test_an_attack_leaves_its_input_alone():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    kept = images.clone()
    for steps in (0, 2):
        result = PGD(total, LInf("8/255"), steps, "8/255")(victim, images, targets, generators())
        result.zero_()
        assert torch.equal(images, kept)


@pytest.mark.parametrize("distribution", ["uniform", "sign"])
def test_noise_never_asks_the_victim(distribution):
    images, targets = fakes.batch()

    class Nobody:
        def borrow(self, targets):
            raise AssertionError

    noisy = Noise(LInf("8/255"), distribution)(Nobody(), images, targets, generators())
    shift = (noisy - images)[(images > 0.1) & (images < 0.9)].abs() * 255
    assert shift.mean().item() == pytest.approx({"uniform": 4, "sign": 8}[distribution], rel=0.05)


def test_noise_names_a_distribution_that_it_does_not_know():
    with pytest.raises(Exception, match="gaussian"):
        Noise(LInf("8/255"), "gaussian")
