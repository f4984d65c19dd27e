"""Every metric: an evaluation on the device ends with the CPU's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustdet.attacks import PGD, LInf
from robustdet.attacks.objectives import a_cls
from robustdet.evaluation.pipeline import SuiteEvaluator
from tests.contracts.test_metrics import METRICS, metric
from tests.evaluation.quadrants import QuadrantDetector, quadrant_batches
from tests.evaluation.records import RECORD, RUN
from tests.gpu.comparing import Comparisons

CLASSES = ["red", "green", "blue", "none"]


def evaluated(name: str, folder: Path, device: torch.device, epsilon: str) -> dict[str, torch.Tensor]:
    """AP of each class and losses, clean and under an attack that not every object survives."""
    attacks = {"clean": None, "pgd": PGD(a_cls, LInf(epsilon), 3, "8/255", random_start=True)}
    suite = SuiteEvaluator(attacks, {}, folder, {})
    detector = QuadrantDetector().eval().to(device)
    for batch in quadrant_batches(12, 5):
        suite.evaluate_batch(detector, batch.to(device))
    records = suite.records(metric(name), RUN, RECORD.environment, CLASSES)
    found = {}
    for record in records:
        numbers = [number for number in record.per_class.values() if number is not None]
        found[record.attack] = torch.tensor([record.map, *numbers, *record.attacked_losses.values()])
    return found


@pytest.mark.parametrize("name", METRICS)
def test_an_evaluation_ends_with_the_numbers_of_the_cpu(
    name: str, device: torch.device, compare: Comparisons, tmp_path: Path
):
    reference = evaluated(name, tmp_path / "cpu", torch.device("cpu"), "24/255")
    found = evaluated(name, tmp_path / "device", device, "24/255")
    wrong = evaluated(name, tmp_path / "wrong", device, "40/255")
    assert compare.trouble_of("metric", name, reference, found, wrong, 1e-3) is None
