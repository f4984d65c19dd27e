"""Detections on clean and attacked images, side by side (the paper's Figures 2 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from robustdet.analysis.figures.style import symbol
from robustdet.analysis.tags import Tag, Tags
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
    """Draw for each image its objects, and each view's detections with a score above ``threshold``.

    ``views`` are by title, clean images first; below each attacked one is its perturbation, ten times magnified. A
    detection is blue where it overlaps an object of its class by an IoU of 0.5 and no better detection
    does, orange elsewhere; dashed yellow objects were missed. ``class_names`` are those of labels 1..C. Writes a PNG.
    """
    clean, *attacked = views.values()
    lines = 2 if attacked else 1  # of an image
    columns = 1 + len(views)
    figure = Figure(figsize=(INCHES * columns, INCHES * lines * len(targets) + 0.7), layout="constrained")
    grid = figure.subplots(lines * len(targets), columns, squeeze=False)
    for axes, title in zip(grid[0], ["objects", *views], strict=True):
        axes.set_title(symbol(title), fontsize=11)
    for place, target in enumerate(targets):
        seen, *changed = grid[lines * place : lines * (place + 1)]
        draw_objects(show(seen[0], clean.images[place], target.original_size), target, class_names)
        for panel, view in zip(seen[1:], views.values(), strict=True):
            show(panel, view.images[place], target.original_size)
            draw_detections(panel, view.detections[place], target, class_names, threshold)
        for panels in changed:
            for panel, view in zip(panels[2:], attacked, strict=True):
                show(panel, magnified(view.images[place], clean.images[place]), target.original_size)
            for blank in panels[:2]:
                blank.set_axis_off()
            panels[1].text(1, 0.5, f"change ×{MAGNIFICATION} →", transform=panels[1].transAxes, ha="right", va="center")
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
    tags = []
    for box, label, difficult in zip(
        target.boxes.tolist(), target.labels, target.difficult | target.crowd, strict=True
    ):
        _box(axes, box, OBJECT, dotted=bool(difficult))
        tags.append(Tag(_outline(box), class_names[int(label) - 1], OBJECT, "black"))
    axes.add_artist(Tags(tags))


def draw_detections(
    axes: Axes,
    found: Detections,
    target: Target,
    class_names: Sequence[str],
    threshold: float,
    fontsize: float = 7.5,
) -> None:
    """Right detections blue, wrong ones orange, missed objects dashed. ``fontsize`` of the scores in points."""
    shown = found.to("cpu")
    keep = shown.scores > threshold
    shown = Detections(shown.boxes[keep], shown.scores[keep], shown.labels[keep])
    right, seen = correct(shown, target)
    for box in target.boxes[~(seen | target.difficult | target.crowd)].tolist():
        _box(axes, box, OBJECT, dotted=True)
    colours = [RIGHT if is_right else WRONG for is_right in right]
    marks = [" ✓" if is_right else " ✗" for is_right in right]
    _draw(axes, shown, class_names, colours, marks, fontsize)


def draw_found(axes: Axes, found: Detections, class_names: Sequence[str], colour: str = FOUND) -> None:
    """Detections of an image that nobody has annotated."""
    number = len(found.labels)
    _draw(axes, found.to("cpu"), class_names, [colour] * number, [""] * number)


def _draw(
    axes: Axes,
    found: Detections,
    class_names: Sequence[str],
    colours: Sequence[str],
    marks: Sequence[str],
    fontsize: float = 7.5,
) -> None:
    """Boxes, the best on top, and what they are taken for; the best ones' names have the first choice of a place."""
    boxes, names = found.boxes.tolist(), [class_names[int(label) - 1] for label in found.labels]
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        _box(axes, box, colour)
    rows = zip(boxes, names, found.scores, marks, colours, strict=True)
    tags = [Tag(_outline(box), f"{name} {s:.2f}{mark}", colour, "white") for box, name, s, mark, colour in rows]
    axes.add_artist(Tags(tags, fontsize))


def _outline(box: Sequence[float]) -> tuple[float, float, float, float]:
    """A box as matplotlib sees it, where pixel k of an image covers k - 0.5 .. k + 0.5."""
    x0, y0, x1, y1 = box
    return x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5


def _box(axes: Axes, box: Sequence[float], colour: str, dotted: bool = False) -> None:
    x0, y0, x1, y1 = _outline(box)
    style = "--" if dotted else "-"
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.6, linestyle=style))


def legend_handles(threshold: float, missed: str = "missed") -> list[Line2D]:
    """What the colours of :func:`draw_detections` mean."""

    def line(colour: str, label: str, style: Literal["-", "--"] = "-") -> Line2D:
        return Line2D([], [], color=colour, linestyle=style, label=label)

    return [
        line(RIGHT, f"right (score above {threshold:g})"),
        line(WRONG, "wrong or found twice"),
        line(OBJECT, missed, "--"),
    ]
