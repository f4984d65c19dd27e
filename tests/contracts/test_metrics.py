"""What every metric in conf/metric promises; a new yaml is tested unasked."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hydra.utils import instantiate

from robustdet.cli.composition import CONF, composed
from robustdet.evaluation.metric import Metric
from robustdet.types import Detections, Target
from tests.evaluation.scenes import scene

METRICS = sorted(file.stem for file in (CONF / "metric").glob("*.yaml"))
CLASSES = 4  # of which the last has no object


@cache
def metric(name: str) -> Metric:
    return instantiate(composed("evaluate", [f"metric={name}"]).metric, num_classes=CLASSES)


@pytest.fixture(params=METRICS)
def measure(request: pytest.FixtureRequest) -> Metric:
    return metric(request.param)


def perfect(truth: dict[str, Target]) -> dict[str, Detections]:
    """All objects, as they are, and nothing else."""
    return {
        name: Detections(target.boxes, torch.ones(len(target.boxes)), target.labels) for name, target in truth.items()
    }


def test_numbers_are_shares_and_a_class_without_objects_has_none(measure: Metric):
    scores = measure(*scene(num_images=20, num_classes=CLASSES - 1, seed=0))
    *numbers, last = scores.headline.per_class
    assert last is None
    assert len(scores.headline.curves) == CLASSES
    assert all(0 < number < 1 for number in numbers)
    assert scores.headline.mean == pytest.approx(sum(numbers) / len(numbers))
    assert scores.rule.strip()


def test_perfect_detections_have_all_and_none_have_nothing(measure: Metric):
    _, truth = scene(num_images=20, num_classes=CLASSES - 1, seed=1, difficult=0)
    truth = {name: Target(**{**vars(target), "original_size": (96, 96)}) for name, target in truth.items()}
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert measure(dict.fromkeys(truth, nothing), truth).headline.mean == 0
    if "authors" not in type(measure).__name__.lower():  # whose shift by a pixel loses small objects
        assert measure(perfect(truth), truth).headline.mean == pytest.approx(1)


def test_the_order_of_the_images_is_of_no_account(measure: Metric):
    found, truth = scene(num_images=20, num_classes=CLASSES - 1, seed=2)
    backwards = measure(dict(reversed(found.items())), dict(reversed(truth.items())))
    assert backwards.headline.mean == measure(found, truth).headline.mean


def test_a_false_alarm_never_helps(measure: Metric):
    found, truth = scene(num_images=20, num_classes=CLASSES - 1, seed=3)
    name, one = next(iter(found.items()))
    wrong = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    worse = Detections(
        torch.cat([wrong, one.boxes]),
        torch.cat([torch.ones(1), one.scores]),
        torch.cat([torch.ones(1, dtype=torch.long), one.labels]),
    )
    assert measure(found | {name: worse}, truth).headline.mean <= measure(found, truth).headline.mean
