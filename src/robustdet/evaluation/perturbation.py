"""How an attacked image differs from the clean one, image by image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.exact import exact
from robustdet.types import Images

TOLERANCE = 1e-3  # of 1/255, by which a pixel may miss its bounds: float32 pixels are exact to about 2e-5


def perturbation_measures(clean: Images, attacked: Images) -> dict[str, Float[Tensor, "B"]]:
    """Per image, in units of 1/255:

    - ``linf``: largest change of a pixel value;
    - ``linf_8bit``: the same after rounding the attacked image to 8 bits, as saving it would;
    - ``mean_change``: mean absolute change;
    - ``changed``: share of pixels (of any channel) that changed at all, in [0, 1];
    - ``outside_range``: how far the worst pixel value lies outside [0, 255].
    """
    clean, attacked = exact(clean) * 255, exact(attacked) * 255
    difference = (attacked - clean).abs()
    return {
        "linf": difference.amax(dim=(1, 2, 3)),
        "linf_8bit": (attacked.round() - clean).abs().amax(dim=(1, 2, 3)),
        "mean_change": difference.mean(dim=(1, 2, 3)),
        "changed": (difference > 0).any(dim=1).double().mean(dim=(1, 2)),
        "outside_range": torch.maximum(-attacked, attacked - 255).amax(dim=(1, 2, 3)).clamp(min=0),
    }
