"""SSD300 against the numbers of another implementation of it, on weights and images that a rule makes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from robustdet.detection.ssd import SSD
from robustdet.types import DetectionLosses, RawPredictions, Target
from tests.detection.conftest import build_detector, make_target
from tests.golden_weights import golden_state_dict

GOLDEN = os.environ.get("ROBUSTDET_GOLDEN")
pytestmark = pytest.mark.skipif(GOLDEN is None, reason="ROBUSTDET_GOLDEN does not point to the golden numbers")

OBJECTS = [
    ([(0.10, 0.12, 0.58, 0.71), (0.40, 0.30, 0.93, 0.88)], [15, 7]),
    ([(0.05, 0.50, 0.35, 0.95), (0.62, 0.08, 0.80, 0.30), (0.30, 0.25, 0.75, 0.66)], [1, 12, 20]),
]


def our_name(theirs: str) -> str:
    part, _, rest = theirs.partition(".")
    if part == "extras":  # ours counts the ReLUs between the convolutions
        index, _, kind = rest.partition(".")
        return f"extras.layers.{2 * int(index)}.{kind}"
    names = {"vgg": "backbone.layers", "L2Norm": "l2_norm", "loc": "regression_head.layers"}
    return f"{names.get(part, 'classification_head.layers')}.{rest}"


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    with np.load(Path(GOLDEN or "") / "authors_ssd.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def golden(numbers: dict[str, np.ndarray]) -> tuple[SSD, RawPredictions]:
    ssd = build_detector("ssd300", ["normalisation.mean=[104,117,123]"])
    weights = golden_state_dict(Path(GOLDEN or "") / "state_dict_ssd.txt")
    ssd.load_state_dict({our_name(name): tensor for name, tensor in weights.items()})
    with torch.no_grad():
        return ssd, ssd(torch.from_numpy(numbers["images"]) / 255)


def test_default_boxes(golden: tuple[SSD, RawPredictions], numbers: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(golden[1].default_boxes.numpy(), numbers["priors"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("field", "theirs"), [("cls_logits", "conf"), ("bbox_regression", "loc")])
def test_predictions(
    golden: tuple[SSD, RawPredictions], numbers: dict[str, np.ndarray], field: str, theirs: str
) -> None:
    ours = getattr(golden[1], field).numpy()
    np.testing.assert_allclose(ours, numbers[theirs], rtol=1e-3, atol=1e-3 * np.abs(numbers[theirs]).std())


def test_losses_of_the_pair_and_of_each_image(
    golden: tuple[SSD, RawPredictions], numbers: dict[str, np.ndarray]
) -> None:
    losses = golden[0].losses(golden[1], golden[0].assign(targets()))
    np.testing.assert_allclose(of_pair(losses), numbers["loss_loc_cls_cwa"][:2], rtol=1e-3)
    each = [losses.each_per_positive(part).tolist() for part in (losses.localization, losses.classification)]
    np.testing.assert_allclose(np.transpose(each), numbers["loss_loc_cls_cwa_each_image"][:, :2], rtol=1e-3)


@pytest.mark.parametrize("altered", ["adv3_cls", "adv3_loc", "adv3_mtd"])
def test_losses_of_altered_images(
    golden: tuple[SSD, RawPredictions], numbers: dict[str, np.ndarray], altered: str
) -> None:
    ssd, _ = golden
    with torch.no_grad():
        raw = ssd(torch.from_numpy(numbers[altered]) / 255)
    losses = ssd.losses(raw, ssd.assign(targets()))
    np.testing.assert_allclose(of_pair(losses), numbers[f"{altered}_loss"], rtol=1e-3)


def targets() -> list[Target]:
    return [make_target([[300 * side for side in box] for box in boxes], labels) for boxes, labels in OBJECTS]


def of_pair(losses: DetectionLosses) -> list[float]:
    return [float(losses.per_positive(part)) for part in (losses.localization, losses.classification)]
