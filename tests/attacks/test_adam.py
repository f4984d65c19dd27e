import re

import pytest
import torch

from robustdet.attacks.adam import Adam
from robustdet.attacks.objectives import total
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from robustdet.errors import InputError
from tests.attacks import fakes

BALL = LInf("8/255")


def generators() -> list[torch.Generator]:
    return image_generators(0, ["two", "one", "none"])


def slow_adam(detector, image, target, start, steps: int, rate: float):
    """One image, Adam written out from its paper (Kingma & Ba, 2015, Algorithm 1), in double precision."""
    low, high = (image - 8 / 255).clamp(0, 1).double(), (image + 8 / 255).clamp(0, 1).double()
    middle, half = (low + high) / 2, (high - low) / 2

    def value(x):
        return detector.losses(detector(x[None].float()), detector.assign([target])).total.sum()

    z = torch.atanh(((start.double() - middle) / half).clamp(-0.999, 0.999))
    m, v = torch.zeros_like(z), torch.zeros_like(z)
    best, highest = image, value(image).item()
    x = start
    for t in range(1, steps + 1):
        x = x.detach().requires_grad_()
        value(x).backward()
        g = x.grad.double() * half * (1 - torch.tanh(z) ** 2)
        g = g / g.abs().mean()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        z = z + rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        x = BALL.project((middle + half * torch.tanh(z)).float()[None], image[None])[0]
        if value(x).item() > highest:
            best, highest = x, value(x).item()
    return best, highest


def test_it_is_a_slow_loop_image_by_image():
    detector, (images, targets) = fakes.detector().eval(), fakes.batch()
    victim = DetectorVictim(detector)
    start = PGD(total, BALL, 1, "4/255")
    ours = Adam(total, BALL, 6, [start], rate=0.3)(victim, images, targets, generators())
    begun = start(victim, images, targets, generators())
    for image, target, first, made in zip(images, targets, begun, ours, strict=True):
        if not len(target.labels):
            assert torch.equal(made, image)  # its loss is 0 whatever it shows
            continue
        expected, highest = slow_adam(detector, image, target, first, 6, 0.3)
        value = detector.losses(detector(made[None]), detector.assign([target])).total.sum()
        assert value.item() == pytest.approx(highest, rel=1e-4)
        assert (made - expected).abs().max() < 2e-3  # what Adam divides by is small at first


def test_the_scale_of_the_objective_counts_for_nothing():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()

    def of_scale(scale):
        return Adam(lambda model, x: scale * total(model, x), BALL, 5)(victim, images, targets, generators())

    torch.testing.assert_close(of_scale(2.0**-40), of_scale(1.0), rtol=0, atol=1e-4)


def test_it_climbs_from_a_corner_of_the_ball_too():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    corner = PGD(lambda model, x: -total(model, x), BALL, 10, "8/255")
    made = Adam(total, BALL, 30, [corner], rate=0.4)(victim, images, targets, generators())
    with victim.borrow(targets) as model, torch.no_grad():
        assert (total(model, made) > total(model, images))[:2].all()  # the third has no objects


@pytest.mark.parametrize("epsilon", ["8/255", 1e-7, 1])
def test_pixels_at_an_end_of_their_range_stay_numbers(epsilon):
    """There a tanh is at infinity: carlini/nn_robust_attacks, issues 17 and 50."""
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    images, ball = images.round(), LInf(epsilon)  # 0 or 1, each
    corner = PGD(total, ball, 1, epsilon)
    made = Adam(total, ball, 5, ["clean", corner])(victim, images, targets, generators())
    assert torch.equal(made, ball.project(made, images))  # which nothing but a number is
    with victim.borrow(targets) as model, torch.no_grad():
        assert (total(model, made) >= total(model, images)).all()


def test_a_ball_without_room_leaves_the_image():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    assert torch.equal(Adam(total, LInf(0), 3)(victim, images, targets, generators()), images)


@pytest.mark.parametrize("rate", [0, -0.1, float("nan"), float("inf"), True, 1e300, 10**400])
def test_a_rate_that_climbs_nowhere_is_refused(rate):
    with pytest.raises(InputError, match=re.escape(f"expected a rate above 0 and up to 100, got rate={rate}")):
        Adam(total, BALL, 3, rate=rate)
