"""What the discriminator makes of clean, noisy and attacked images: how it mixes the kernels for each of them.

A discriminator that recognises one attack's signature (its step size, say) instead of what all attacks share takes the
others for clean images. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from robustdet.analysis.figures.observation import CLEAN, Grouped, Observation, distinct, observe
from robustdet.analysis.figures.study import Findings, Study
from robustdet.analysis.figures.style import GREY, caption, looks, styled, symbol
from robustdet.attacks.threat import PixelFraction, pixel_fraction
from robustdet.defences.routing_diagnostics import aid_separation
from robustdet.errors import InputError
from robustdet.types import Attack

KERNEL_COLOURS = ("#332288", "#DDAA33", "#44AA99", "#000000", "#88CCEE", "#DDDDDD", "#882255", "#999933")


@dataclass(frozen=True)
class RoutedImage:
    """The share ``pi`` of one kernel (counted from 0) in one image's convolutions."""

    detector: str
    attack: str
    image: str
    kernel: int
    pi: float


class RoutingStudy:
    """The first ``num_images`` images (None: all), clean and under attack, as detectors route them.

    ``stepped`` attacks are partial: each is made with every one of ``step_sizes``, pixel fractions such as "2/255".
    """

    def __init__(
        self,
        attacks: Mapping[str, Attack],
        stepped: Mapping[str, Callable[..., Attack]],
        step_sizes: Sequence[PixelFraction],
        num_images: int | None,
    ) -> None:
        with_steps = {
            f"{name}, step {255 * pixel_fraction(size):g}/255": make(step_size=size)
            for name, make in stepped.items()
            for size in step_sizes
        }
        self.attacks = {**attacks, **with_steps}
        self.num_images = num_images

    def __call__(self, study: Study) -> Findings:
        require_routing(study)
        rows = routed(observe(study, self.attacks, self.num_images, "routing"))
        notes = [
            f"{detector}, {attack}: {100 * value:.0f} % apart from clean"
            for (detector, attack), value in separations(rows).items()
            if attack != CLEAN
        ]
        return Findings(draw(rows, study.caption(self.num_images)), RoutedImage, rows, notes)


def require_routing(study: Study) -> None:
    """Raises ValueError naming the detectors that do not route their images."""
    with torch.no_grad():
        images = next(study.first(1)).images
        without = [s for s in study.subjects if not hasattr(s.model(images), "routing")]
    if without:
        names = ", ".join(f"{subject.label} ({type(subject.model).__name__})" for subject in without)
        raise InputError(
            f"analysis=routing reads how a discriminator routes images, and there is none in {names}: only RobustDet's "
            "detectors (model=robust_ssd300, tiny_robust_ssd, …) have one"
        )


def routed(observations: Iterable[Observation]) -> list[RoutedImage]:
    """A row for each image and kernel."""
    return [
        RoutedImage(seen.detector, seen.attack, seen.target.image_id, kernel, pi)
        for seen in observations
        if seen.routing is not None
        for kernel, pi in enumerate(seen.routing.tolist())
    ]


def shares(rows: Sequence[RoutedImage]) -> Float[np.ndarray, "B K"]:
    """π of each image of one detector under one attack."""
    kernels = 1 + max(row.kernel for row in rows)
    return np.array([row.pi for row in rows]).reshape(-1, kernels)


def separations(rows: Sequence[RoutedImage]) -> dict[tuple[str, str], float]:
    """By detector and attack: JS(mean π of clean images, mean π of these) / log 2, from 0 (taken for clean) to 1."""
    groups = Grouped(rows, lambda row: (row.detector, row.attack))
    vectors = {key: torch.from_numpy(shares(of)) for key, of in groups.items()}
    return {key: float(aid_separation(vectors[key[0], CLEAN], of)) for key, of in vectors.items()}


@styled
def draw(rows: Sequence[RoutedImage], text: str) -> Figure:
    """A column for each detector, a strip for each attack: every image is a thin bar, divided into its kernels."""
    labels, attacks = looks(distinct(row.detector for row in rows)), distinct(row.attack for row in rows)
    groups, apart = Grouped(rows, lambda row: (row.detector, row.attack)), separations(rows)
    figure = Figure(
        figsize=(4.4 * len(labels) + 1.6, 0.36 * len(attacks) + 1.4),
        layout=ConstrainedLayoutEngine(h_pad=0.015, hspace=0),
    )
    grid = figure.subplots(len(attacks), len(labels), squeeze=False, sharex="col", sharey=True)
    for line, attack in zip(grid, attacks, strict=True):
        for axes, detector in zip(line, labels, strict=True):
            draw_strip(axes, shares(groups[detector, attack]))
            value = "" if attack == CLEAN else f"{100 * apart[detector, attack]:.0f} %"
            axes.text(1.02, 0.5, value, transform=axes.transAxes, va="center", fontsize=9)
        line[0].set_ylabel(symbol(attack), rotation=0, ha="right", va="center")
    for axes, detector in zip(grid[0], labels, strict=True):
        axes.set_title(detector, color=labels[detector].colour, fontweight="bold")
        axes.text(1.02, 0.5, "apart\nfrom clean", transform=axes.transAxes, va="center", fontsize=7.5, color=GREY)
    kernel_legend(figure, rows)
    caption(figure, f"one bar an image, divided by π and sorted; {text}")
    return figure


def kernel_legend(figure: Figure | SubFigure, rows: Sequence[RoutedImage]) -> None:
    """Which colour is which kernel, above everything."""
    kernels = 1 + max(row.kernel for row in rows)
    handles = [Patch(color=KERNEL_COLOURS[k % len(KERNEL_COLOURS)], label=f"kernel {k}") for k in range(kernels)]
    figure.legend(handles=handles, loc="outside upper center", ncols=8, handlelength=1)


def draw_strip(axes: Axes, vectors: Float[np.ndarray, "B K"]) -> None:
    """Images of one strip, sorted so that those which are mixed alike stand together."""
    main = vectors.mean(axis=0).argmax()
    ordered = vectors[np.argsort(-vectors[:, main], kind="stable")]
    edges, base = np.arange(len(ordered) + 1), np.zeros(len(ordered))
    for kernel, share in enumerate(ordered.T):
        colour = KERNEL_COLOURS[kernel % len(KERNEL_COLOURS)]
        axes.stairs(base + share, edges, baseline=base, fill=True, color=colour, linewidth=0)
        base = base + share
    axes.set(xlim=(0, len(ordered)), ylim=(0, 1), xticks=[], yticks=[])
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
