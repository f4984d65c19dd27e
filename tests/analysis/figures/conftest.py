"""Tiny detectors with random weights, a few random images with objects, and observations made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from robustdet.analysis.figures.observation import Observation
from robustdet.analysis.figures.study import Study, Subject
from robustdet.attacks import PGD, LInf
from robustdet.attacks.objectives import a_cls
from robustdet.evaluation.metric import VocMetric
from robustdet.types import Batch
from tests.detection.conftest import build_detector, make_target
from tests.evaluation import scenes

CLASSES = ["disc", "star", "ring"]
SIZE = 96


def detector(name: str = "tiny_ssd") -> Any:
    """With large weights in its heads, so that scores differ: an untrained one says "background" everywhere."""
    torch.manual_seed(1)
    model = build_detector(name, num_classes=len(CLASSES))
    heads = [parameter for key, parameter in model.named_parameters() if "classification_head" in key]
    with torch.no_grad():
        for parameter in heads:
            parameter.copy_(torch.randn(parameter.shape))
        scale = model(batches()[0].images).cls_logits.std()
        for parameter in heads:
            parameter.mul_(1.5 / scale)
    return model.eval()


def batches(count: int = 5, size: int = 2) -> list[Batch]:
    """The last image has no object."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 3, SIZE, SIZE, generator=generator)
    targets = [
        make_target([[10 + 3 * i, 12, 45 + 4 * i, 50], [40, 50, 88, 90 - i]], [1 + i % 3, 2], image_id=f"image{i}")
        for i in range(count - 1)
    ]
    targets.append(make_target([], image_id=f"image{count - 1}"))
    return [Batch(images[i : i + size], targets[i : i + size]) for i in range(0, count, size)]


@pytest.fixture
def build_study() -> Callable[..., Study]:
    """``build_study("tiny_ssd", "tiny_robust_ssd")``: detectors of these yaml files, looking at five images."""

    def built(*names: str) -> Study:
        subjects = [Subject(name, detector(name)) for name in names or ("tiny_ssd",)]
        return Study(subjects, batches(), 5, "a test", CLASSES, VocMetric(len(CLASSES)))

    return built


@pytest.fixture
def pgd() -> PGD:
    return PGD(a_cls, LInf("8/255"), steps=2, step_size="4/255")


def seen(image: str, attack: str = "clean", **fields: Any) -> Observation:
    """An observation by hand; what is not given is empty."""
    given: dict[str, Any] = {
        "detector": "one",
        "target": scenes.target(image, [[0, 0, 10, 10]], [1]),
        "detections": scenes.detections([], [], []),
        "classification": 0.0,
        "localization": 0.0,
        "positives": 1,
    }
    return Observation(attack=attack, **(given | fields))
