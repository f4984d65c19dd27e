"""Figures 2 and 5, left: the same images clean and attacked, with what each detector finds there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from matplotlib.figure import Figure

from robustdet.analysis.figures.observation import CLEAN, attacked
from robustdet.analysis.figures.study import Findings, Study
from robustdet.analysis.figures.style import caption, looks, styled, symbol
from robustdet.analysis.pictures import MAGNIFICATION, View, correct, draw_detections, legend_handles, magnified, show
from robustdet.errors import InputError
from robustdet.progress import ProgressBar
from robustdet.types import Attack, Batch, Target

Views: TypeAlias = dict[str, dict[str, View]]
"""By detector and by attack."""

INCHES = 3.1  # of an image


@dataclass(frozen=True)
class Detected:
    """One detection; the box is xyxy in pixels of the detector's input."""

    detector: str
    attack: str
    image: str
    label: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float
    right: bool


class DetectionPanels:
    """``num_images`` images with at least one object each, starting at the ``skip``-th of these."""

    def __init__(self, attacks: Mapping[str, Attack], num_images: int, threshold: float, skip: int = 0) -> None:
        self.attacks = attacks
        self.num_images = num_images
        self.threshold = threshold
        self.skip = skip

    def __call__(self, study: Study) -> Findings:
        views: Views = {}
        with ProgressBar("detections", len(study.subjects) * (1 + len(self.attacks)) * self.num_images) as bar:
            batch = with_objects(study, self.num_images, self.skip)
            for subject in study.subjects:
                views[subject.label] = {}
                for name, attack in {CLEAN: None, **self.attacks}.items():
                    images = attacked(study, subject, batch, name, attack)
                    with torch.no_grad():
                        views[subject.label][name] = View(images, subject.model.detect(subject.model(images)))
                    bar.advance(len(batch), len(batch))
        rows = table(views, batch.targets, study.class_names, self.threshold)
        figure = draw(views, batch.targets, study.class_names, self.threshold, study.split)
        return Findings(figure, Detected, rows)


def with_objects(study: Study, count: int, skip: int) -> Batch:
    """One batch of the images from the ``skip``-th on that have objects. Raises ValueError when there are too few."""
    images, targets = [], []
    for batch in study.first(None):
        for image, target in zip(batch.images, batch.targets, strict=True):
            if len(target.learnable.labels):
                images.append(image)
                targets.append(target)
        if len(images) >= skip + count:
            return Batch(torch.stack(images[skip : skip + count]), targets[skip : skip + count])
    raise InputError(f"{skip + count} images with objects are needed, {study.split} has {len(images)}")


def table(views: Views, targets: Sequence[Target], class_names: Sequence[str], threshold: float) -> list[Detected]:
    """Every detection with a score above ``threshold``."""
    rows = []
    for detector, by_attack in views.items():
        for attack, view in by_attack.items():
            for target, on_device in zip(targets, view.detections, strict=True):
                found = on_device.to("cpu")
                right, _ = correct(found, target)
                for box, score, label, is_right in zip(found.boxes, found.scores, found.labels, right, strict=True):
                    if score > threshold:
                        name, (x0, y0, x1, y1) = class_names[int(label) - 1], box.tolist()
                        image = target.image_id
                        rows.append(
                            Detected(detector, attack, image, name, float(score), x0, y0, x1, y1, bool(is_right))
                        )
    return rows


@styled
def draw(views: Views, targets: Sequence[Target], class_names: Sequence[str], threshold: float, split: str) -> Figure:
    """A row for each image and detector: clean, then each attack with its perturbation."""
    labels = looks(list(views))
    attacks = list(next(iter(views.values())))[1:]
    rows, columns = len(targets) * len(views), 1 + 2 * len(attacks)
    figure = Figure(figsize=(INCHES * columns, INCHES * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    titles = [CLEAN, *(title for name in attacks for title in (symbol(name), f"perturbation ×{MAGNIFICATION}"))]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=12)
    lines = iter(grid)
    for index, target in enumerate(targets):
        for detector, by_attack in views.items():
            cells = iter(next(lines))
            for name, view in by_attack.items():
                axes = show(next(cells), view.images[index], target.original_size)
                draw_detections(axes, view.detections[index], target, class_names, threshold)
                if name == CLEAN:
                    axes.text(-0.03, 0.5, detector, rotation=90, ha="right", va="center", transform=axes.transAxes,
                              fontsize=12, color=labels[detector].colour, fontweight="bold")  # fmt: skip
                else:
                    show(
                        next(cells), magnified(view.images[index], by_attack[CLEAN].images[index]), target.original_size
                    )
    figure.legend(handles=legend_handles(threshold), loc="outside upper center", ncols=4, fontsize=10)
    caption(figure, f"images of {split}")
    return figure
