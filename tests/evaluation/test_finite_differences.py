"""The check of gradients against losses whose slope is known."""

import pytest
import torch

from robustdet.evaluation.finite_differences import AGREEMENT, finite_difference_errors, is_curved, is_wrong

WEIGHT = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))


def images(low=0.2, high=0.8):
    return low + (high - low) * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def finite_difference_error(loss, images, gradient):
    return finite_difference_errors(loss, images, gradient)[0]


def wavy(x):
    return (WEIGHT * (3 * x).sin()).sum(dim=(1, 2, 3)) + 10


def slope(x):
    return 3 * WEIGHT * (3 * x).cos()


def test_the_gradient_of_a_smooth_loss_is_its_slope():
    assert (finite_difference_error(wavy, images(), slope(images())) < 0.01).all()


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda g: 2 * g, 0.5),  # found is half of what was expected
        (lambda g: g / 4, 0.75),
        (lambda g: -g, 2.0),
    ],
)
def test_a_gradient_that_is_not_the_slope_is_felt(wrong, expected):
    """The errors by hand: the direction of steps is the wrong gradient's sign, the loss moves by the right one."""
    error = finite_difference_error(wavy, images(), wrong(slope(images())))
    assert (error > AGREEMENT).all()
    torch.testing.assert_close(error, torch.full_like(error, expected), atol=0.01, rtol=0)


def test_a_slope_that_the_gradient_conceals_is_felt_where_it_has_a_direction():
    def brightness(x):
        return (x * (1 + WEIGHT)).sum(dim=(1, 2, 3))

    seen = torch.arange(8) < 4
    gradient = ((1 + WEIGHT) * seen).expand(4, -1, -1, -1)
    hidden, shown = float((1 + WEIGHT)[..., 4:].sum()), float((1 + WEIGHT)[..., :4].abs().sum())
    error = finite_difference_error(brightness, images(), gradient)
    torch.testing.assert_close(error, torch.full_like(error, hidden / (hidden + shown)), atol=0.1, rtol=0)
    assert (error > AGREEMENT).all()
    assert (finite_difference_error(wavy, images(), torch.zeros(4, 3, 8, 8)) > 0.9).all()


def test_every_image_has_its_own_error():
    gradient = slope(images())
    gradient[2] *= -1
    assert (finite_difference_error(wavy, images(), gradient) > AGREEMENT).tolist() == [False, False, True, False]


def test_a_slope_that_is_right_at_one_of_the_scales_is_right():
    """Right below 0.05/255 of the clean image; further away the loss is another."""

    def kinked(x):
        away = (x - images()).abs().amax(dim=(1, 2, 3)) > 0.05 / 255
        return torch.where(away, 2 * wavy(x), wavy(x))

    def coarse(x):
        near = (x - images()).abs().amax(dim=(1, 2, 3)) < 0.05 / 255
        return torch.where(near, torch.full((4,), 10.0), wavy(x))

    assert (finite_difference_error(kinked, images(), slope(images())) < AGREEMENT).all()
    assert (finite_difference_error(coarse, images(), slope(images())) < AGREEMENT).all()


def test_pixels_at_the_edge_of_their_range_are_not_taken_out_of_it():
    x = images(-0.5, 1.5).clamp(0, 1)

    def loss(at):
        assert at.min() >= 0
        assert at.max() <= 1
        return wavy(at)

    assert (finite_difference_error(loss, x, slope(x)) < 0.01).all()
    black = torch.zeros(2, 3, 8, 8)
    assert finite_difference_error(loss, black, slope(black)).tolist() == [0, 0]


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_rounding_of_a_large_loss_with_little_slope_is_no_error(size):
    def loss(x):
        return size * (10 + 1e-4 * (WEIGHT * x).sum(dim=(1, 2, 3)))  # a step's change is below float32's resolution

    assert (finite_difference_error(loss, images(), size * 1e-4 * WEIGHT.expand(4, -1, -1, -1)) < AGREEMENT).all()


def test_where_nothing_is_finite_or_nothing_moves_there_is_nothing_to_compare():
    assert finite_difference_error(lambda x: wavy(x) * 0, images(), torch.zeros(4, 3, 8, 8)).tolist() == [0] * 4
    assert finite_difference_error(lambda x: wavy(x) * torch.nan, images(), slope(images())).tolist() == [0] * 4
    assert finite_difference_error(wavy, images(), slope(images()) * torch.nan).tolist() == [0] * 4


def rippled(amplitude):
    """A slope of ``WEIGHT``, and of every pixel a ripple of wavelength 0.01/255 that goes by the pixel's own place."""

    def loss(x):
        turns = (x.double() - images().double()) * 255 / 0.01 * 2 * torch.pi + 1
        ripple = (WEIGHT.sign() * turns.sin()).sum(dim=(1, 2, 3)) * 0.01 / 255 / (2 * torch.pi)
        return 0.001 + (x.double() * WEIGHT).sum(dim=(1, 2, 3)) * 0.001 + amplitude * ripple

    return loss


def verdicts(loss, gradient):
    both = finite_difference_errors(loss, images(), gradient)
    names = ("finite_difference_error", "finite_difference_error_coarse")
    rows = [dict(zip(names, values, strict=True)) for values in torch.stack(both, dim=1).tolist()]
    return {("wrong" if is_wrong(row) else "curved" if is_curved(row) else "sound") for row in rows}


def gradient_of(loss):
    x = images().requires_grad_()
    return torch.autograd.grad(loss(x).sum(), x)[0]


@pytest.mark.parametrize(
    ("amplitude", "factor", "verdict"),
    [
        (0.0, 1, "sound"),
        (1.0, 1, "curved"),
        (1.0, 2, "wrong"),  # not at any scale
        (1.0, -1, "wrong"),
        (0.0, 2, "wrong"),
    ],
)
def test_a_loss_that_curves_is_told_from_a_gradient_that_is_wrong(amplitude, factor, verdict):
    """A thousand times steeper than what it leads to, the ripple's slope turns within less than any step."""
    loss = rippled(amplitude)
    assert verdicts(loss, factor * gradient_of(loss)) == {verdict}


def test_a_fine_step_that_drowns_in_rounding_acquits_nobody():
    def loss(x):
        return 100 + (WEIGHT * x).sum(dim=(1, 2, 3))  # what a fine step changes is below what float32 makes of 100

    assert verdicts(loss, 2 * WEIGHT.expand(4, -1, -1, -1)) == {"wrong"}


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_a_gradient_that_is_a_little_wrong_is_not_taken_for_a_curve(factor):
    weight = torch.linspace(-1, 1, 192).view(3, 8, 8)  # what rounding may be forgives as much as a fine step changes

    def loss(x):
        return 5 + (weight * x).sum(dim=(1, 2, 3))

    assert verdicts(loss, factor * weight.expand(4, -1, -1, -1)) == {"wrong"}


def test_a_sound_gradient_is_looked_at_once():
    asked = []
    finite_difference_errors(lambda x: asked.append(1) or wavy(x), images(), slope(images()))
    assert len(asked) == 2
