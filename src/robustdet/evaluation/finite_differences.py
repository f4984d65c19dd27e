"""Is the gradient that attacks follow the slope of the loss? Autograd's word against two looks at the loss itself.

A backward pass may say anything: a custom one that is wrong, a stand-in, a part that is cut off. An attack that trusts
it goes astray, and the detector seems robust.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.exact import exact
from robustdet.types import Images

STEPS = (0.02 / 255, 0.1 / 255)  # of every pixel; the other one is for images where the first disagrees
AGREEMENT = 0.2  # relative error up to which the two agree: kinks within a step (ReLU, max-pooling, mining) make 0.01
RESOLUTION = 1e-5  # of the loss: what float32 may make of a sum over a network's layers and boxes


def finite_difference_error(
    loss: Callable[[Images], Float[Tensor, "B"]], images: Images, gradient: Images
) -> Float[Tensor, "B"]:
    """|Δ - ∇·δ| / max(|Δ|, |∇·δ|) of every image, in [0, 2], less what is rounding; 0 where both are 0, or not finite.

    Δ is the central difference of ``loss`` between the image + δ and - δ, a step up the gradient's sign as attacks take
    it, and upwards where the gradient is zero, where a slope that it conceals is felt if it does not cancel over
    pixels. A pixel that a step would take out of [0, 1] stays. The least error of several steps is taken: a slope that
    is right at one scale is right.
    """
    direction = torch.where(gradient == 0, 1, gradient.sign())
    slopes = exact(gradient)
    error = torch.full((len(images),), torch.inf, dtype=torch.float64, device=slopes.device)
    for step in STEPS:
        reach = step * direction
        reach = torch.where((images >= step) & (images <= 1 - step), reach, 0)
        above, below = images + reach, images - reach
        with torch.no_grad():
            high, low = exact(loss(above)), exact(loss(below))
        found = high - low
        expected = (slopes * (exact(above) - exact(below))).flatten(1).sum(dim=1)
        rounding = RESOLUTION * (high.abs() + low.abs()) / 2
        size = torch.maximum(found.abs(), expected.abs()).clamp(min=torch.finfo(torch.float64).tiny)
        error = torch.fmin(error, ((found - expected).abs() - rounding).clamp(min=0) / size)
        if step != STEPS[-1] and not bool((error > AGREEMENT).any()):  # a GPU is waited for: two forwards cost more
            break
    return error.where(error.isfinite(), 0)
