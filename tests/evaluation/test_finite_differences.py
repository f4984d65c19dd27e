"""The check of gradients against losses whose slope is known."""

import pytest
import torch

from robustdet.evaluation.finite_differences import AGREEMENT, finite_difference_error

WEIGHT = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))


def images(low=0.2, high=0.8):
    return low + (high - low) * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


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
