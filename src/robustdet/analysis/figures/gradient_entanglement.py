"""Figure 4: how much the gradients of a clean image and of its attacked self interfere, layer by layer (Section 3.2).

R = g1ᵀ g2 / |g2|², with g1 the gradient of the clean image's detection loss to a layer's parameters and g2 that of the
attacked image's. Near 0 the two are learnt apart, near 1 they share their parameters, below 0 they work against each
other. A discriminator that sends the two to different kernels makes R 0 by construction: it says that they are learnt
apart, not that either is learnt well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn

from robustdet.analysis.figures.observation import Grouped, attacked, distinct
from robustdet.analysis.figures.study import Findings, Study, require_losses
from robustdet.analysis.figures.style import caption, distribution, looks, panels, styled
from robustdet.exact import exact
from robustdet.progress import ProgressBar
from robustdet.types import Attack, Images, Target

PARTS = (
    "backbone",
    "extras",
    "classification_head",
    "regression_head",
)  # of an SSD; not the discriminator, the decoder


@dataclass(frozen=True)
class Entanglement:
    """Of one image at one layer; ``cosine`` is the same without the gradients' lengths."""

    detector: str
    layer: str
    image: str
    entanglement: float
    cosine: float


class GradientEntanglement:
    """Of the first ``num_images`` images (None: all) that have objects, clean against under ``attack``."""

    def __init__(self, attack: Attack, num_images: int | None) -> None:
        self.attack = attack
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        require_losses(study)
        rows: list[Entanglement] = []
        with ProgressBar("gradients, layer by layer", study.count(self.num_images) * len(study.subjects)) as bar:
            for subject in study.subjects:
                for batch in study.first(self.num_images):
                    images = attacked(study, subject, batch, "adv", self.attack)
                    for one, other, target in zip(batch.images, images, batch.targets, strict=True):
                        if len(target.learnable.labels):
                            rows += compare(subject.label, subject.model, one[None], other[None], target)
                        bar.advance(1, 1)
        return Findings(draw(rows, study.caption(self.num_images)), Entanglement, rows, notes(rows))


def compare(label: str, model: Any, clean: Images, adversarial: Images, target: Target) -> list[Entanglement]:
    """R and cosine at each layer for one image; a layer without any gradient for either image is left out."""
    g1, g2 = (gradients(model, images, target) for images in (clean, adversarial))
    return [
        Entanglement(label, layer, target.image_id, *entanglement(g1[layer], g2[layer]))
        for layer in g1
        if layer in g2 and g1[layer].any() and g2[layer].any()
    ]


def entanglement(g1: Float[Tensor, " n"], g2: Float[Tensor, " n"]) -> tuple[float, float]:
    """g1ᵀg2 / |g2|² and the cosine between the two; neither may be 0."""
    g1, g2 = exact(g1), exact(g2)
    return float(g1 @ g2 / (g2 @ g2)), float(g1 @ g2 / (g1.norm() * g2.norm()))


def gradients(model: Any, images: Images, target: Target) -> dict[str, Float[Tensor, " n"]]:
    """Of one image's L_det to the parameters of each convolution, in the network's order; nothing is accumulated."""
    layers = {name: list(module.parameters()) for name, module in convolutions(model).items()}
    flat = [parameter for parameters in layers.values() for parameter in parameters]
    learning = [parameter.requires_grad for parameter in flat]
    try:
        for parameter in flat:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            losses = model.losses(model(images), model.assign([target]))
            found = torch.autograd.grad(losses.per_positive(losses.total), flat, allow_unused=True)
    finally:
        for parameter, learns in zip(flat, learning, strict=True):
            parameter.requires_grad_(learns)
    pieces = iter(found)
    by_layer = {name: [next(pieces) for _ in parameters] for name, parameters in layers.items()}
    return {
        name: torch.cat([piece.flatten() for piece in of if piece is not None])
        for name, of in by_layer.items()
        if any(piece is not None for piece in of)  # CFR's log-variance takes no part in evaluation
    }


def convolutions(model: nn.Module) -> Mapping[str, nn.Module]:
    """Plain and adversarially-aware convolutions (whatever has a kernel) of the detector proper: of an SSD without its
    discriminator, of somebody else's all.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) >= 4
    }
    return {name: module for name, module in found.items() if name.startswith(PARTS)} or found


def notes(rows: Sequence[Entanglement]) -> list[str]:
    return [
        f"{detector}: median R over images and layers {np.median([row.entanglement for row in of]):+.3f}, "
        f"cosine {np.median([row.cosine for row in of]):+.3f}"
        for detector, of in Grouped(rows, lambda row: row.detector).items()
    ]


@styled
def draw(rows: Sequence[Entanglement], text: str) -> Figure:
    """A row for each detector: the distribution over images, layer by layer."""
    labels = looks(distinct(row.detector for row in rows))
    layers = distinct(short(layer) for layer in sorted(distinct(row.layer for row in rows), key=depth))
    wide = max(6.5, 0.33 * len(layers) + 1)
    figure, axes = panels(len(labels), 1, (wide, 1.9), sharex=True, sharey=True)
    by_place = Grouped(rows, lambda row: (row.detector, short(row.layer)))
    for panel, (label, look) in zip(axes[:, 0], labels.items(), strict=True):
        for place, layer in enumerate(layers):
            values = np.array([row.entanglement for row in by_place.get((label, layer), [])])
            distribution(panel, place, values, look)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.axhline(1, color="black", linewidth=0.8, linestyle=(0, (3, 2)))
        panel.set_ylabel("R")
        panel.set_title(label, loc="left", color=look.colour, fontweight="bold")
        panel.grid(axis="x", visible=False)
    low, high = whiskers(list(by_place.values()))
    axes[-1, 0].set_ylim(min(low, -0.1) * 1.05, max(high, 1.05) * 1.05)
    axes[-1, 0].set_xticks(range(len(layers)), layers, rotation=90)
    axes[-1, 0].set_xlim(-0.7, len(layers) - 0.3)
    caption(figure, f"clean against attacked images; 0: apart, 1 (dashed): shared; {text}")
    return figure


def whiskers(groups: Sequence[Sequence[Entanglement]]) -> tuple[float, float]:
    """The range of 5-95 % of each group: an image whose gradient all but vanishes would stretch the axis for all."""
    ends = [np.quantile([row.entanglement for row in of], (0.05, 0.95)) for of in groups]
    return float(min(end[0] for end in ends)), float(max(end[1] for end in ends))


def depth(layer: str) -> tuple[int, list[int]]:
    """Sorts layers as the image passes them; somebody else's, whose parts have other names, by their numbers."""
    part, *rest = layer.split(".")
    return PARTS.index(part) if part in PARTS else len(PARTS), [int(word) for word in rest if word.isdigit()]


def short(layer: str) -> str:
    """``backbone.layers.12`` as ``backbone 12``, ``classification_head.layers.0`` as ``cls 0``; CFR's mean as the layer
    that it takes the place of.
    """
    words = layer.replace("classification_head", "cls").replace("regression_head", "loc").split(".")
    return " ".join(word for word in words if word not in ("layers", "conv_mean"))
