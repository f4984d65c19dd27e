"""Every network: predictions, losses and the gradient to the pixels, the device's against the CPU's in double."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from robustdet.defences.aa_conv import EXECUTIONS
from robustdet.evaluation.precision import factors_of_10_bits
from robustdet.types import Batch, RawPredictions, ScoredPredictions
from tests.contracts.test_detectors import CASES, FOREIGN, batch_for, built
from tests.detection.conftest import build_detector
from tests.gpu.comparing import Comparisons, difference, wrong_by

SINGLE, DOUBLE = 3e-4, 1e-7  # of the largest value
ROUNDED = 1e-5  # post-processing is in single precision, whatever comes in
SINGLE_GRADIENT = 0.2  # another unit at its kink, another negative of two that are equally hard: whole pixels differ
# Random ones of transformers' hardly depend on their image: nothing would be shown.
WITH_LOSSES = [name for name, case in CASES.items() if case.offer != "detections" and case.model != "transformers"]
FULL_SIZE = ("ssd300", "robust_ssd300_cfr")


def computed(model: Any, batch: Batch) -> dict[str, Tensor]:
    """All that an attack step asks a network for."""
    images = batch.images.detach().clone().requires_grad_()
    raw = model(images)
    losses = model.losses(raw, model.assign(batch.targets))
    value = losses.per_positive(losses.total)
    (gradient,) = torch.autograd.grad(value, images)
    found = {"classification": losses.classification, "localization": losses.localization, "gradient": gradient}
    if isinstance(raw, ScoredPredictions):
        each = model.box_losses(raw, model.assign(batch.targets))
        found |= {"logits": raw.cls_logits, "boxes": raw.bbox_regression, "cross entropy": each.cross_entropy}
        found |= {
            "log-probabilities": raw.log_probabilities,
            "localization of each": each.localization,
            "localization alone": model.localization(raw, model.assign(batch.targets)),
        }
        found |= {name: value for name in ("routing", "mean") if (value := getattr(raw, name, None)) is not None}
    return found


def moved(model: Any, batch: Batch, device: torch.device, dtype: torch.dtype) -> tuple[Any, Batch]:
    """Copies there, in this precision."""
    batch = batch.to(device)
    targets = copy.deepcopy(batch.targets)
    for target in targets:
        target.boxes = target.boxes.to(dtype)
    return copy.deepcopy(model).to(device, dtype), Batch(batch.images.to(dtype), targets)


def troubles(
    model: Any, batch: Batch, device: torch.device, name: str, compare: Comparisons, *, double: bool = True
) -> list[str]:
    """What is not as it has to be, in either precision."""
    found_wrong: list[str | None] = []
    reference = computed(*moved(model, batch, torch.device("cpu"), torch.float64))

    def found(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
        return computed(*moved(model, batch, device, dtype))

    hundredth = wrong_by(1.01, model)
    if double:
        sharp = found(model, torch.float64), found(hundredth, torch.float64)
        found_wrong.append(compare.trouble_of("network", f"{name}, double", reference, *sharp, DOUBLE))
    single, wrong, twice = (found(one, torch.float32) for one in (model, hundredth, wrong_by(2, model)))
    gradients = [{"gradient": one.pop("gradient")} for one in (reference, single, twice)]
    wrong.pop("gradient")
    found_wrong.append(compare.trouble_of("network", f"{name}, single", reference, single, wrong, SINGLE))
    found_wrong.append(compare.trouble_of("network", f"{name}, single, gradient", *gradients, SINGLE_GRADIENT))
    return [trouble for trouble in found_wrong if trouble is not None]


@pytest.mark.parametrize("name", WITH_LOSSES)
def test_it_says_what_the_cpu_says(name: str, device: torch.device, compare: Comparisons):
    model = built(name).eval().requires_grad_(False)
    assert troubles(model, batch_for(model), device, name, compare) == []


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_every_execution_of_adversarially_aware_convolutions_says_what_the_cpu_says(
    execution: str, device: torch.device, compare: Comparisons
):
    torch.manual_seed(0)
    model = build_detector("tiny_robust_ssd", [f"execution={execution}"], num_classes=3).requires_grad_(False)
    assert troubles(model, batch_for(model), device, f"tiny_robust_ssd, {execution}", compare) == []


@pytest.mark.parametrize("name", FULL_SIZE)
def test_at_full_size_it_says_what_the_cpu_says(name: str, device: torch.device, compare: Comparisons):
    torch.manual_seed(0)
    model = build_detector(name, num_classes=3).requires_grad_(False)
    batch = batch_for(model)
    one = Batch(batch.images[:1], batch.targets[:1])
    double = device.type == "cuda"  # a CPU would compare with itself, dearly
    assert troubles(model, one, device, name, compare, double=double) == []


# Of others the post-processing is theirs, and random ones find next to nothing.
OURS = [name for name, case in CASES.items() if case.offer == "scores" and case.model not in FOREIGN]


@pytest.mark.parametrize("name", OURS)
def test_its_detections_are_those_of_the_cpu(name: str, device: torch.device, compare: Comparisons):
    """Of the same predictions, made in double: what is left are roundings of softmax and boxes."""
    model = built(name).eval().double()
    raw = model(batch_for(model).images.double())
    shifted = RawPredictions(raw.cls_logits.roll(1, dims=2), raw.bbox_regression, raw.default_boxes)
    there = copy.deepcopy(model).to(device)

    def detected(raw: RawPredictions, by: Any, at: torch.device) -> dict[str, Tensor]:
        sent = RawPredictions(raw.cls_logits.to(at), raw.bbox_regression.to(at), raw.default_boxes.to(at))
        with torch.no_grad():
            found = by.detect(sent)
        return {f"{i} {key}": getattr(one, key) for i, one in enumerate(found) for key in ("boxes", "scores", "labels")}

    reference, wrong = detected(raw, model, torch.device("cpu")), detected(shifted, there, device)
    found = detected(raw, there, device)
    assert compare.trouble_of("detections", name, reference, found, wrong, ROUNDED) is None


def test_tf32_moves_results_by_less_than_two_hundredths(device: torch.device, compare: Comparisons):
    if device.type != "cuda":
        pytest.skip("TF32 is a GPU's")
    torch.manual_seed(0)
    model = build_detector("ssd300", num_classes=3).requires_grad_(False)
    model, batch = moved(model, batch_for(model), device, torch.float32)
    exact = computed(model, batch)
    with factors_of_10_bits(True):
        rounded = computed(model, batch)
    for key in ("logits", "boxes"):
        apart = difference({key: exact[key]}, {key: rounded[key]})
        compare.observe("TF32", f"ssd300, {key}", f"differs by {apart:.1e}")
        assert apart < 2e-2
