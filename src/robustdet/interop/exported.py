"""Exported files read again, and held to the detector that they were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustdet.interop.black_box import BlackBox
from robustdet.interop.export import Format
from robustdet.interop.onnx_file import OnnxFile
from robustdet.types import Detections, Detector, Images

PIXELS, SCORE = 0.01, 1e-4  # within which two runtimes mean the same box

Reader: TypeAlias = Callable[[Images], Sequence[Any]]
"""images [B, 3, S, S] → what is found in each, as `BlackBox` takes it."""


@dataclass(frozen=True)
class Agreement:
    """How many of all detections are the same in both, and how far apart these are at most."""

    same: int
    of: int
    pixels: float
    score: float

    def __str__(self) -> str:
        return f"{self.same} of {self.of} detections, boxes within {self.pixels:.1g} pixels, scores {self.score:.1g}"


def reader(file: Path, kind: Format) -> Reader:
    """Raises InputError where what reads it is not installed."""
    if kind == "onnx":
        return OnnxFile(file)
    graph = torch.export.load(file).module()

    def read(images: Images) -> list[dict[str, Tensor]]:
        boxes, scores, labels = graph(images)
        return [
            {"boxes": b[s > 0], "scores": s[s > 0], "labels": n[s > 0]}
            for b, s, n in zip(boxes, scores, labels, strict=True)
        ]

    return read


@torch.no_grad()
def agreement(detector: Detector, read: Reader, images: Images) -> Agreement:
    """Of what the detector and the file find in these images. The same box has the same label, and its edges and score
    are apart by a hundredth of a pixel and 1e-4 at most.
    """
    box = BlackBox(function=read, input_size=detector.input_size, name="the file", num_classes=detector.num_classes)
    pairs = list(zip(detector.detect(detector(images)), box.detect(box(images)), strict=True))
    found = [_same(ours, theirs) for ours, theirs in pairs]
    pixels, scores = (torch.cat([one[place] for one in found]) for place in (0, 1))
    total = sum(max(len(ours.labels), len(theirs.labels)) for ours, theirs in pairs)
    return Agreement(len(pixels), total, *(float(one.max()) if len(one) else 0.0 for one in (pixels, scores)))


def _same(ours: Detections, theirs: Detections) -> tuple[Tensor, Tensor]:
    """Of each of ours that is among theirs: how far apart the edges (pixels) and the scores are."""
    pixels = (ours.boxes[:, None] - theirs.boxes).abs().amax(dim=2)
    scores = (ours.scores[:, None] - theirs.scores).abs()
    same = (ours.labels[:, None] == theirs.labels) & (pixels <= PIXELS) & (scores <= SCORE)
    apart = pixels.where(same, torch.inf)
    if not apart.numel():
        return pixels.new_zeros(0), scores.new_zeros(0)
    nearest = apart.argmin(dim=1, keepdim=True)
    has = same.any(dim=1)
    return pixels.gather(1, nearest)[has, 0], scores.gather(1, nearest)[has, 0]
