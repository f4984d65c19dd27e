"""Is the gradient that attacks follow the slope of the loss? Autograd's word against looks at the loss itself.

A backward pass may say anything: a custom one that is wrong, a stand-in, a part that is cut off. An attack that trusts
it goes astray, and the detector seems robust. So it does where the gradient is right but only for less than an attack's
smallest step: a loss that curves as fast leads an attack no better than noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.exact import exact
from robustdet.types import Images

STEPS = (0.02 / 255, 0.1 / 255)  # of every pixel; the others are for images where the first disagrees
FINE = 0.001 / 255  # tells a loss that curves from a gradient that is wrong
AGREEMENT = 0.2  # relative error up to which the two agree: kinks within a step (ReLU, max-pooling, mining) make 0.01
RESOLUTION = 1e-5  # of the loss: what float32 may make of a sum over a network's layers and boxes


class Difference(NamedTuple):
    """Of every image: the relative ``error`` in [0, 2] of what the gradient foretells of a step, less what is rounding;
    the ``size`` of what changes, as found or as foretold, whichever is more, and what may be ``rounding`` of it.
    """

    error: Float[Tensor, "B"]
    size: Float[Tensor, "B"]
    rounding: Float[Tensor, "B"]


def finite_difference(
    loss: Callable[[Images], Float[Tensor, "B"]], images: Images, gradient: Images, step: float
) -> Difference:
    """|Δ - ∇·δ| / max(|Δ|, |∇·δ|) of every image, 0 where both are 0.

    Δ is the central difference of ``loss`` between the image + δ and - δ, a ``step`` (as a fraction of the pixel range)
    up the gradient's sign as attacks take it, and upwards where the gradient is zero, where a slope that it conceals is
    felt if it does not cancel over pixels. A pixel that a step would take out of [0, 1] stays.
    """
    reach = step * torch.where(gradient == 0, 1, gradient.sign())
    reach = torch.where((images >= step) & (images <= 1 - step), reach, 0)
    above, below = images + reach, images - reach
    with torch.no_grad():
        high, low = exact(loss(above)), exact(loss(below))
    found = high - low
    expected = (exact(gradient) * (exact(above) - exact(below))).flatten(1).sum(dim=1)
    rounding = RESOLUTION * (high.abs() + low.abs()) / 2
    size = torch.maximum(found.abs(), expected.abs())
    error = ((found - expected).abs() - rounding).clamp(min=0) / size.clamp(min=torch.finfo(torch.float64).tiny)
    return Difference(error, size, rounding)


def finite_difference_errors(
    loss: Callable[[Images], Float[Tensor, "B"]], images: Images, gradient: Images
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """The least error of several steps, of every image: a slope that is right at one scale is right. 0 where none is
    finite.

    The first tensor is of all steps, the second one of `STEPS` alone: where the first is small and the second is not,
    the gradient is right, but holds for less than these.
    """
    errors = []
    for step in STEPS:
        errors.append(finite_difference(loss, images, gradient, step).error)
        if len(errors) == 1 and not bool((errors[0] > AGREEMENT).any()):  # a GPU is waited for: four forwards cost more
            return _least(errors), _least(errors)
    fine = finite_difference(loss, images, gradient, FINE)
    coarse = _least(errors)
    doubt = fine.error + fine.rounding / fine.size  # NaN where nothing changes
    acquits = (doubt <= AGREEMENT) & (doubt < coarse / 2)  # how wrong a gradient is, so fine a step cannot say
    return _least([coarse, fine.error.where(acquits, torch.nan)]), coarse


def is_wrong(measures: Mapping[str, float]) -> bool:
    """Of an image's measures: whether its gradient is the slope at no scale."""
    return measures["finite_difference_error"] > AGREEMENT


def is_curved(measures: Mapping[str, float]) -> bool:
    """Whether it is the slope, but not over the least of `STEPS`."""
    return measures["finite_difference_error"] <= AGREEMENT < measures["finite_difference_error_coarse"]


def _least(errors: list[Float[Tensor, "B"]]) -> Float[Tensor, "B"]:
    """Of those that are finite; 0 where none is."""
    least = torch.full_like(errors[0], torch.inf)
    for error in errors:
        least = torch.fmin(least, error)
    return least.where(least.isfinite(), 0)
