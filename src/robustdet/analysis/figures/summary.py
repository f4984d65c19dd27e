"""One page on one or several detectors: average precision, curves, losses, confidence, routing, and what they see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robustdet.analysis.figures import attack_loss_change, confidence, pr_curves, routing
from robustdet.analysis.figures.detections import with_objects
from robustdet.analysis.figures.observation import CLEAN, Grouped, Observation, attacked, distinct, observe, scores
from robustdet.analysis.figures.study import Findings, Study, Subject
from robustdet.analysis.figures.style import Look, caption, legend, looks, styled, symbol
from robustdet.analysis.pictures import View, draw_detections, show
from robustdet.types import Attack, Target

WIDTH = 8.27  # inches: A4
BLOCKS = {"ap": 1.6, "curves": 2.0, "losses": 1.9, "confidence": 1.7}  # heights in inches
STRIP = 0.27  # inches, of one attack's routing
GLANCE = 2  # clean and the first attack have a picture


@dataclass(frozen=True)
class Overview:
    """Of one detector under one attack: mAP in [0, 1]; boxes above the threshold, the median of their scores and the
    share of them that is right; losses per positive box (medians over images with objects); how far the discriminator
    holds these images apart from clean ones, 0 to 1 (empty for a detector without one).
    """

    detector: str
    attack: str
    map: float
    boxes: int
    score: float | None
    right: float | None
    classification: float
    localization: float
    separation: float | None


@dataclass(frozen=True)
class Glance:
    """One image, clean and attacked, as one detector sees it."""

    target: Target
    views: Mapping[str, Mapping[str, View]]  # by detector and attack
    class_names: Sequence[str]
    threshold: float


class Summary:
    """The first ``num_images`` images (None: all) under ``attacks``; the ``picture``-th with objects is shown."""

    def __init__(
        self, attacks: Mapping[str, Attack], threshold: float, num_images: int | None, picture: int = 0
    ) -> None:
        self.attacks = attacks
        self.threshold = threshold
        self.num_images = num_images
        self.picture = picture

    def __call__(self, study: Study) -> Findings:
        observations = observe(study, self.attacks, self.num_images, "summary")
        rows = overview(study, observations, self.threshold)
        figure = draw(rows, observations, study, self.glance(study), self.num_images)
        notes = [
            f"{detector}: mAP " + ", ".join(f"{row.attack} {100 * row.map:.1f}" for row in of)
            for detector, of in Grouped(rows, lambda row: row.detector).items()
        ]
        return Findings(figure, Overview, rows, notes)

    def glance(self, study: Study) -> Glance:
        batch = with_objects(study, 1, self.picture)
        shown = dict(list({CLEAN: None, **self.attacks}.items())[:GLANCE])

        def view(subject: Subject, name: str, attack: Attack | None) -> View:
            images = attacked(study, subject, batch, name, attack)
            with torch.no_grad():
                return View(images, subject.model.detect(subject.model(images)))

        views = {s.label: {name: view(s, name, attack) for name, attack in shown.items()} for s in study.subjects}
        return Glance(batch.targets[0], views, study.class_names, self.threshold)


def overview(study: Study, observations: Sequence[Observation], threshold: float) -> list[Overview]:
    """A row for each detector and attack."""
    routes = routing.separations(routing.routed(observations))
    rows = []
    for (detector, attack), seen in Grouped(observations, lambda o: (o.detector, o.attack)).items():
        boxes = confidence.confidences(seen, threshold)
        with_boxes = [o for o in seen if o.positives]
        rows.append(
            Overview(
                detector=detector,
                attack=attack,
                map=scores(seen, study.metric).headline.mean,
                boxes=len(boxes),
                score=float(np.median([box.score for box in boxes])) if boxes else None,
                right=float(np.mean([box.right for box in boxes])) if boxes else None,
                classification=float(np.median([o.classification for o in with_boxes])),
                localization=float(np.median([o.localization for o in with_boxes])),
                separation=routes.get((detector, attack)),
            )
        )
    return rows


@styled
def draw(
    rows: Sequence[Overview], observations: Sequence[Observation], study: Study, glance: Glance, count: int | None
) -> Figure:
    """The page; blocks of a fixed height, so that it grows with the number of detectors."""
    labels, attacks = looks(distinct(row.detector for row in rows)), distinct(row.attack for row in rows)
    routes = routing.routed(observations)
    routed = distinct(row.detector for row in routes)
    cells = len(labels) * len(next(iter(glance.views.values())))
    columns = min(cells, 3 * GLANCE)
    heights = dict(BLOCKS)
    if routed:
        heights["routing"] = STRIP * len(attacks) + 0.75
    heights["pictures"] = -(-cells // columns) * (WIDTH / columns + 0.2)
    figure = Figure(figsize=(WIDTH, sum(heights.values()) + 0.7), layout="constrained")
    blocks = dict(
        zip(
            heights,
            figure.subfigures(len(heights), 1, squeeze=False, height_ratios=list(heights.values())).flat,
            strict=True,
        )
    )
    draw_bars(blocks["ap"].subplots(), rows, labels)
    draw_curves(blocks["curves"], observations, study, labels)
    draw_losses(blocks["losses"], observations, labels)
    draw_confidence(blocks["confidence"], observations, glance.threshold, labels)
    if routed:
        draw_routing(blocks["routing"], routes, attacks, routed)
    draw_glance(blocks["pictures"], glance, labels, columns)
    legend(figure, labels)
    caption(figure, study.caption(count))
    return figure


def draw_bars(axes: Axes, rows: Sequence[Overview], labels: Mapping[str, Look]) -> None:
    """mAP: attacks side by side, each with all detectors."""
    attacks, width = distinct(row.attack for row in rows), 0.8 / len(labels)
    for order, (detector, look) in enumerate(labels.items()):
        heights = [100 * row.map for row in rows if row.detector == detector]
        places = np.arange(len(attacks)) + (order + 0.5) * width - 0.4
        bars = axes.bar(places, heights, width * 0.9, color=look.colour)
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=1)
    axes.set_xticks(range(len(attacks)), [symbol(attack) for attack in attacks])
    axes.set(ylabel="mAP, %", ylim=(0, 108))
    axes.grid(axis="x", visible=False)


def draw_curves(
    block: SubFigure, observations: Sequence[Observation], study: Study, labels: Mapping[str, Look]
) -> None:
    rows = pr_curves.precision_at_recall(observations, study.metric)
    by_attack = Grouped(rows, lambda row: row.attack)
    grid = block.subplots(1, len(by_attack), squeeze=False, sharey=True)[0]
    for axes, (attack, of) in zip(grid, by_attack.items(), strict=True):
        pr_curves.draw_panel(axes, of, labels)
        axes.set_title(symbol(attack))
        axes.get_legend().remove()  # the bars above have these numbers
    grid[0].set_ylabel("precision")


def draw_losses(block: SubFigure, observations: Sequence[Observation], labels: Mapping[str, Look]) -> None:
    rows = attack_loss_change.loss_changes(observations)
    grid = block.subplots(1, 2, sharey=True)
    for axes, name in zip(grid, attack_loss_change.LOSSES, strict=True):
        attack_loss_change.draw_panel(axes, rows, name, labels)
    grid[0].set_ylabel("change of the loss")


def draw_confidence(
    block: SubFigure, observations: Sequence[Observation], threshold: float, labels: Mapping[str, Look]
) -> None:
    by_attack = Grouped(observations, lambda o: o.attack)
    grid = block.subplots(1, len(by_attack), squeeze=False, sharey=True)[0]
    for axes, (attack, of) in zip(grid, by_attack.items(), strict=True):
        confidence.draw_panel(axes, confidence.confidences(of, threshold), threshold, labels)
        axes.set_title(symbol(attack))
    grid[0].set_ylabel("boxes, %")
    confidence.make_room(grid[0])


def draw_routing(
    block: SubFigure, rows: Sequence[routing.RoutedImage], attacks: Sequence[str], detectors: Sequence[str]
) -> None:
    groups = Grouped(rows, lambda row: (row.detector, row.attack))
    grid = block.subplots(len(attacks), len(detectors), squeeze=False)
    for line, attack in zip(grid, attacks, strict=True):
        for axes, detector in zip(line, detectors, strict=True):
            routing.draw_strip(axes, routing.shares(groups[detector, attack]))
        line[0].set_ylabel(symbol(attack), rotation=0, ha="right", va="center")
    for axes, detector in zip(grid[0], detectors, strict=True):
        axes.set_title(f"kernels that {detector} mixes, image by image")
    routing.kernel_legend(block, rows)


def draw_glance(block: SubFigure, glance: Glance, labels: Mapping[str, Look], columns: int) -> None:
    views = [(detector, name, view) for detector, of in glance.views.items() for name, view in of.items()]
    grid = block.subplots(-(-len(views) // columns), columns, squeeze=False)
    for axes in grid.flat[len(views) :]:
        axes.set_axis_off()
    for axes, (detector, name, view) in zip(grid.flat, views, strict=False):
        show(axes, view.images[0], glance.target.original_size)
        draw_detections(axes, view.detections[0], glance.target, glance.class_names, glance.threshold, fontsize=5.5)
        axes.set_title(f"{detector}, {symbol(name)}", fontsize=7.5, color=labels[detector].colour)
