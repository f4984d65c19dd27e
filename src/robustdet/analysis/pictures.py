"""Detections on clean and attacked images, side by side (the paper's Figures 2 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from robustdet.evaluation.average_precision import pairwise_iou
from robustdet.files import whole
from robustdet.types import Detections, Images, Target

# blue, orange, yellow: distinct for colour-blind readers, who find a tick or a cross beside each score as well
RIGHT, WRONG, OBJECT = "#0072B2", "#D55E00", "#ffd92f"
FOUND = "#8E3A9D"  # purple: nobody knows whether it is right
MAGNIFICATION = 10  # of a perturbation; no change is mid-grey
INCHES = 2.6  # of an image


@dataclass(frozen=True)
class View:
    """Some images as one attack (or none) left them, and what was detected there."""

    images: Images
    detections: Sequence[Detections]


def detection_grid(
    views: Mapping[str, View],
    targets: Sequence[Target],
    class_names: Sequence[str],
    path: Path | str,
    threshold: float = 0.3,
) -> Path:
    """Draw one row an image: its objects, then each view's detections with a score above ``threshold``.

    ``views`` are by title, clean images first; each attacked one is followed by its perturbation, ten times
    magnified. A detection is blue where it overlaps an object of its class by an IoU of 0.5 and no better detection
    does, orange elsewhere; dashed yellow objects were missed. ``class_names`` are those of labels 1..C. Writes a PNG.
    """
    clean, *attacked = views.values()
    widths = [1.0, 1.0] + [1.0, 0.5] * len(attacked)
    figure = Figure(figsize=(INCHES * sum(widths), INCHES * len(targets) + 0.7), layout="constrained")
    grid = figure.subplots(len(targets), len(widths), squeeze=False, width_ratios=widths)
    for axes, title in zip(grid[0], _titles(list(views)), strict=True):
        axes.set_title(title, fontsize=10)
    for row, target in enumerate(targets):
        cells = iter(grid[row])
        draw_objects(show(next(cells), clean.images[row], target.original_size), target, class_names)
        for view in views.values():
            panel = show(next(cells), view.images[row], target.original_size)
            draw_detections(panel, view.detections[row], target, class_names, threshold)
            if view is not clean:
                show(next(cells), magnified(view.images[row], clean.images[row]), target.original_size)
    handles = [
        *legend_handles(threshold, "missed (on the left: difficult)"),
        Line2D([], [], color=OBJECT, label="object"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    with whole(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format=Path(path).suffix[1:])
    return Path(path)


def correct(found: Detections, target: Target) -> tuple[Bool[Tensor, "D"], Bool[Tensor, "N"]]:
    """Which detections are right, and which objects they found; ``found`` is best first, each object counts once."""
    right, seen = torch.zeros(len(found.labels), dtype=torch.bool), torch.zeros(len(target.labels), dtype=torch.bool)
    if len(seen):
        overlaps = torch.from_numpy(pairwise_iou(found.boxes.double().numpy(), target.boxes.double().numpy()))
        overlaps[found.labels[:, None] != target.labels[None]] = 0
        for index, (overlap, which) in enumerate(zip(*overlaps.max(dim=1), strict=True)):
            if overlap >= 0.5 and not seen[which]:
                right[index] = seen[which] = True
    return right, seen


def _titles(names: list[str]) -> list[str]:
    clean, *attacked = names
    pairs = [title for name in attacked for title in (name, f"change ×{MAGNIFICATION}")]
    return ["objects", clean, *pairs]


def show(axes: Axes, image: Float[Tensor, "3 H W"], original_size: tuple[int, int]) -> Axes:
    """The image in the proportions of its file (height, width): a detector's input is stretched to a square."""
    axes.imshow(image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    height, width = original_size
    axes.set_aspect(height / width * image.shape[2] / image.shape[1])
    axes.set_axis_off()
    axes.set_anchor("N")
    return axes


def magnified(attacked: Float[Tensor, "3 H W"], clean: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """Their difference, ten times over; mid-grey where there is none."""
    return (attacked - clean) * MAGNIFICATION + 0.5


def draw_objects(axes: Axes, target: Target, class_names: Sequence[str]) -> None:
    for box, label, difficult in zip(target.boxes.cpu(), target.labels, target.difficult | target.crowd, strict=True):
        _box(axes, box.numpy(), OBJECT, dotted=bool(difficult))
        _tag(axes, box.numpy(), class_names[int(label) - 1], OBJECT, "black")


def draw_detections(
    axes: Axes,
    found: Detections,
    target: Target,
    class_names: Sequence[str],
    threshold: float,
    fontsize: float = 7.5,
) -> None:
    """Right detections blue, wrong ones orange, missed objects dashed. ``fontsize`` of the scores in points."""
    shown, target = found.to("cpu"), target.to("cpu")
    keep = shown.scores > threshold
    shown = Detections(shown.boxes[keep], shown.scores[keep], shown.labels[keep])
    right, seen = correct(shown, target)
    for box in target.boxes[~(seen | target.difficult | target.crowd)]:
        _box(axes, box.numpy(), OBJECT, dotted=True)
    # best last, so that it lies on top
    for box, score, label, is_right in reversed(list(zip(shown.boxes, shown.scores, shown.labels, right, strict=True))):
        colour = RIGHT if is_right else WRONG
        _box(axes, box.numpy(), colour)
        mark = "✓" if is_right else "✗"
        _tag(axes, box.numpy(), f"{class_names[int(label) - 1]} {score:.2f} {mark}", colour, "white", fontsize)


def draw_found(axes: Axes, found: Detections, class_names: Sequence[str], colour: str = FOUND) -> None:
    """Detections of an image that nobody has annotated."""
    shown = found.to("cpu")
    for box, score, label in reversed(list(zip(shown.boxes, shown.scores, shown.labels, strict=True))):
        _box(axes, box.numpy(), colour)
        _tag(axes, box.numpy(), f"{class_names[int(label) - 1]} {score:.2f}", colour, "white")


def _box(axes: Axes, box: Float[np.ndarray, "4"], colour: str, dotted: bool = False) -> None:
    x0, y0, x1, y1 = box
    style = "--" if dotted else "-"
    # pixel k of an image covers k - 0.5 .. k + 0.5 in matplotlib
    axes.add_patch(
        Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.6, linestyle=style)
    )


def _tag(
    axes: Axes, box: Float[np.ndarray, "4"], text: str, background: str, colour: str, fontsize: float = 7.5
) -> None:
    axes.text(
        max(box[0], 0),
        max(box[1], 0),
        text,
        fontsize=fontsize,
        color=colour,
        verticalalignment="top",
        clip_on=True,
        bbox={"facecolor": background, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
    )


def legend_handles(threshold: float, missed: str = "missed") -> list[Line2D]:
    """What the colours of :func:`draw_detections` mean."""

    def line(colour: str, label: str, style: Literal["-", "--"] = "-") -> Line2D:
        return Line2D([], [], color=colour, linestyle=style, label=label)

    return [
        line(RIGHT, f"right (score above {threshold:g})"),
        line(WRONG, "wrong or found twice"),
        line(OBJECT, missed, "--"),
    ]
