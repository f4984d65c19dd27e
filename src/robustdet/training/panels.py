"""What a detection person wants to see in Weights & Biases beside the curves that every logger gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import wandb
from jaxtyping import Float
from pytorch_lightning.loggers import Logger
from torch import Tensor

from robustdet.evaluation.average_precision import AveragePrecision, Curve
from robustdet.training.validation import Validation
from robustdet.training.wandb_run import WandbRun
from robustdet.types import Detections, Target

MAGNIFICATION = 10
RECALLS = np.linspace(0, 1, 101)


class DetectionPanels(pl.Callback):
    """After every validation, for a `WandbRun` (other loggers see nothing of it): AP by class as a table and as curves,
    precision-recall curves, how images are routed, and the first ``images`` images with their boxes: clean, attacked,
    and the perturbation ten times magnified on mid-grey. Detections below ``threshold`` are not drawn.
    """

    def __init__(self, images: int, threshold: float | int) -> None:
        self.images, self.threshold = images, threshold

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if _wandb_runs(trainer.loggers) and isinstance(pl_module.validation, Validation):
            pl_module.validation.keep_shown = self.images

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        validation, runs = pl_module.validation, _wandb_runs(trainer.loggers)
        if not runs or not trainer.is_global_zero or not isinstance(validation, Validation) or not validation.scores:
            return
        classes = trainer.datamodule.classes  # type: ignore[attr-defined]
        panels = {
            **by_class(validation.scores, classes),
            **precision_recall(validation.scores, classes),
            **routing_histograms(validation.routing),
            **self._pictures(validation, classes),
        }
        for run in runs:
            run.log_metrics(panels, trainer.global_step)

    def _pictures(self, validation: Validation, classes: Sequence[str]) -> dict[str, list[wandb.Image]]:
        """Three images for each: what was shown to the detector with what it found, and what was added."""
        pictures: dict[str, list[wandb.Image]] = {"val/clean": [], "val/attacked": [], "val/perturbation": []}
        for image_id, (clean, attacked) in validation.shown.items():
            target, found = validation.targets[image_id], validation.clean[image_id]
            pictures["val/clean"].append(picture(clean, target, found, classes, self.threshold, image_id))
            if image_id in validation.attacked:
                found = validation.attacked[image_id]
                pictures["val/attacked"].append(picture(attacked, target, found, classes, self.threshold, image_id))
                added = (0.5 + MAGNIFICATION * (attacked - clean)).clamp(0, 1)
                caption = f"{image_id}: {MAGNIFICATION} x (attacked - clean)"
                pictures["val/perturbation"].append(wandb.Image(_bytes(added), caption=caption))
        return {name: images for name, images in pictures.items() if images}


def by_class(scores: Mapping[str, AveragePrecision], classes: Sequence[str]) -> dict[str, Any]:
    """AP of every class under each condition, as a table and as one curve each; classes without objects have none."""
    rows = [[name, *(score.per_class[index] for score in scores.values())] for index, name in enumerate(classes)]
    curves = {
        f"val/{condition}/{name}": value
        for condition, score in scores.items()
        for name, value in zip(classes, score.per_class, strict=True)
        if value is not None
    }
    return {"val/AP50_by_class": wandb.Table(columns=["class", *scores], data=rows), **curves}


def precision_recall(scores: Mapping[str, AveragePrecision], classes: Sequence[str]) -> dict[str, Any]:
    """One chart a condition: the best precision at 101 recalls or beyond, a line a class."""
    charts = {}
    for condition, score in scores.items():
        lines = {name: _line(curve) for name, curve in zip(classes, score.curves, strict=True) if curve is not None}
        title = f"precision over recall, {condition.removeprefix('AP50_')} images"
        charts[f"val/precision_recall/{condition}"] = wandb.plot.line_series(
            RECALLS.tolist(), list(lines.values()), keys=list(lines), title=title, xname="recall"
        )
    return charts


def _line(curve: Curve) -> list[float]:
    return [float(curve.precision[curve.recall >= recall].max(initial=0.0)) for recall in RECALLS]


def routing_histograms(routing: Mapping[str, Float[Tensor, "N K"]]) -> dict[str, wandb.Histogram]:
    """Of every kernel's π_k over the clean and over the attacked images."""
    return {
        f"val/routing/{kind}/kernel_{k}": wandb.Histogram(np_histogram=np.histogram(values, bins=32, range=(0, 1)))
        for kind, rows in routing.items()
        for k, values in enumerate(rows.T.numpy())
    }


def picture(
    image: Float[Tensor, "3 H W"],
    target: Target,
    found: Detections,
    classes: Sequence[str],
    threshold: float | int,
    caption: str,
) -> wandb.Image:
    """An image in [0, 1] with its objects and the detections from ``threshold`` on, boxes in its pixels."""
    names = dict(enumerate(classes, start=1))
    kept = found.scores >= threshold
    boxes = {
        "ground_truth": _boxes(target.boxes, target.labels, None, names),
        "predictions": _boxes(found.boxes[kept], found.labels[kept], found.scores[kept], names),
    }
    return wandb.Image(_bytes(image), boxes=boxes, caption=caption)


def _boxes(boxes: Tensor, labels: Tensor, scores: Tensor | None, names: Mapping[int, str]) -> dict[str, Any]:
    data = []
    for index, ((x1, y1, x2, y2), label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        box = {
            "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2},
            "domain": "pixel",
            "class_id": label,
            "box_caption": names[label],
        }
        if scores is not None:
            score = float(scores[index])
            box |= {"scores": {"score": score}, "box_caption": f"{names[label]} {score:.2f}"}
        data.append(box)
    return {"box_data": data, "class_labels": dict(names)}


def _bytes(image: Float[Tensor, "3 H W"]) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _wandb_runs(loggers: Iterable[Logger]) -> list[WandbRun]:
    return [logger for logger in loggers if isinstance(logger, WandbRun)]
