"""How an attacked image differs from the clean one, image by image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.exact import exact
from robustdet.types import Images

EDGES = ("left", "top", "right", "bottom")
TOLERANCE = 1e-3  # of 1/255, by which a pixel may miss its bounds: float32 pixels are exact to about 2e-5


def perturbation_measures(clean: Images, attacked: Images) -> dict[str, Float[Tensor, "B"]]:
    """Per image, in units of 1/255:

    - ``linf``: largest change of a pixel value;
    - ``linf_8bit``: the same after rounding the attacked image to 8 bits, as saving it would;
    - ``mean_change``: mean absolute change;
    - ``changed``: share of pixels (of any channel) that changed at all, in [0, 1];
    - ``outside_range``: how far the worst pixel value lies outside [0, 255];
    - ``changed_left``, ``changed_top``, ``changed_right``, ``changed_bottom``: the smallest box that holds every
      changed pixel, in pixels, upper edges exclusive (all 0 where none changed);
    - ``image_pixels``: how many the image has.
    """
    clean, attacked = exact(clean) * 255, exact(attacked) * 255
    difference = (attacked - clean).abs()
    return {
        "linf": difference.amax(dim=(1, 2, 3)),
        "linf_8bit": (attacked.round() - clean).abs().amax(dim=(1, 2, 3)),
        "mean_change": difference.mean(dim=(1, 2, 3)),
        "changed": (difference > 0).any(dim=1).double().mean(dim=(1, 2)),
        "outside_range": torch.maximum(-attacked, attacked - 255).amax(dim=(1, 2, 3)).clamp(min=0),
        **{f"changed_{edge}": values for edge, values in zip(EDGES, changed_box(clean, attacked).T, strict=True)},
        "image_pixels": torch.full((len(clean),), clean[0, 0].numel(), dtype=clean.dtype),
    }


def changed_box(clean: Images, attacked: Images) -> Float[Tensor, "B 4"]:
    """Of each image the smallest box (xyxy, upper edges exclusive) of all pixels that differ; 0 where none do."""
    differs = (attacked != clean).any(dim=1)
    edges = []
    for of in (differs.any(dim=1), differs.any(dim=2)):
        first, last = of.int().argmax(dim=1), of.shape[1] - of.flip(1).int().argmax(dim=1)
        edges.append(torch.stack([first, last], 1) * of.any(dim=1, keepdim=True))
    return torch.stack([edges[0][:, 0], edges[1][:, 0], edges[0][:, 1], edges[1][:, 1]], 1).to(clean)


def changed_size(measures: Mapping[str, float]) -> tuple[float, float]:
    """Width and height of that box, as it was measured."""
    left, top, right, bottom = (measures[f"changed_{edge}"] for edge in EDGES)
    return right - left, bottom - top
