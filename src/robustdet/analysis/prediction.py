"""What a detector sees in photographs that nobody has annotated, and what is left of it under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from robustdet.analysis.figures.observation import CLEAN
from robustdet.analysis.figures.style import GREY, styled, symbol
from robustdet.analysis.pictures import MAGNIFICATION, draw_found, magnified, show
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.victim import DetectorVictim
from robustdet.errors import InputError
from robustdet.types import Attack, Detections, Detector, Images, RawPredictions, Target

INCHES = 4.2  # of a photograph's longer side


@dataclass(frozen=True)
class Prediction:
    """One view of one photograph: the detector's input, and its detections with scores above the threshold."""

    image: Float[Tensor, "3 S S"]
    found: Detections


@dataclass(frozen=True)
class PredictedBox:
    """Box in pixels of the photograph's file, xyxy, upper edge exclusive."""

    view: str
    label: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float


@torch.no_grad()
def look(detector: Detector, image: Images, threshold: float) -> Prediction:
    raw = detector(image)
    (found,) = detector.detect(raw)
    said = (raw.cls_logits, raw.bbox_regression) if isinstance(raw, RawPredictions) else (found.boxes, found.scores)
    if not all(bool(values.isfinite().all()) for values in said):
        raise InputError("the detector's predictions for this image are not finite: its weights are broken")
    keep = found.scores > threshold
    return Prediction(image[0], Detections(found.boxes[keep], found.scores[keep], found.labels[keep]))


def predict(
    detector: Detector,
    image: Images,
    size: tuple[int, int],
    attack: Attack | None,
    name: str,
    threshold: float,
    seed: int,
) -> dict[str, Prediction]:
    """The photograph as it is and, with an attack, as ``name``.

    Nobody says what the photograph shows, so the attack goes against what the detector itself finds there. ``size`` is
    the photograph's (height, width). Raises ValueError when there is an attack but nothing above the threshold.
    """
    views = {CLEAN: look(detector, image, threshold)}
    if attack is not None:
        found = views[CLEAN].found
        if not len(found.labels):
            hint = "lower threshold=, or use ~attack" if threshold > 0 else "the detector finds nothing at all: ~attack"
            raise InputError(f"nothing to attack: no detection has a score above {threshold:g}; {hint}")
        target = as_target(found, size)
        generators = image_generators(seed, [target.image_id], name)
        views[name] = look(detector, attack(DetectorVictim(detector), image, [target], generators), threshold)
    return views


def as_target(found: Detections, size: tuple[int, int]) -> Target:
    """Detections taken for the truth; boxes are cut to have their edges in order (a detector may say otherwise)."""
    found = found.to("cpu")
    none = torch.zeros(len(found.labels), dtype=torch.bool)
    boxes = torch.cat([found.boxes[:, :2], torch.maximum(found.boxes[:, 2:], found.boxes[:, :2] + 1)], dim=1)
    return Target(boxes, found.labels, none, none, "photograph", size)


def boxes_of(views: Mapping[str, Prediction], size: tuple[int, int], class_names: Sequence[str]) -> list[PredictedBox]:
    """Every view's detections, in pixels of the photograph of ``size`` (height, width) and cut to it."""
    rows = []
    for view, prediction in views.items():
        found = in_pixels(prediction.found, prediction.image.shape[1], size)
        rows += [
            PredictedBox(view, class_names[int(label) - 1], float(score), *box.tolist())
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
        ]
    return rows


def in_pixels(found: Detections, side: int, size: tuple[int, int]) -> Detections:
    """From the detector's ``side`` x ``side`` pixels to those of a photograph of ``size`` (height, width), on the CPU.

    Boxes are cut to it.
    """
    found = found.to("cpu")
    scale = torch.tensor([size[1], size[0]] * 2) / side
    return Detections(found.boxes.clamp(0, side) * scale, found.scores, found.labels)


@styled
def draw(views: Mapping[str, Prediction], size: tuple[int, int], class_names: Sequence[str]) -> Figure:
    """clean | attacked | perturbation ×10, in the proportions of the photograph of ``size`` (height, width)."""
    height, width = size
    scale = INCHES / max(size)
    columns = 1 if len(views) == 1 else 3
    figure = Figure(figsize=(width * scale * columns + 0.2, height * scale + 0.5), layout="constrained")
    grid = figure.subplots(1, columns, squeeze=False)[0]
    for axes, (name, prediction) in zip(grid, views.items(), strict=False):
        show(axes, prediction.image, size)
        draw_found(axes, prediction.found, class_names)
        number = len(prediction.found.labels)
        axes.set_title(f"{symbol(name)}: {number} detection{'' if number == 1 else 's'}", fontsize=11)
    if columns == 3:
        clean, attacked = views.values()
        show(grid[2], magnified(attacked.image, clean.image), size)
        largest = 255 * float((attacked.image - clean.image).abs().max())
        grid[2].set_title(f"perturbation ×{MAGNIFICATION}, at most {largest:.1f}/255", fontsize=11, color=GREY)
    return figure
