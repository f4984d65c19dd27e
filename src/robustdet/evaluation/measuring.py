"""All that is measured of a batch of images, clean or attacked: detections, and numbers for every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robustdet.attacks.objectives import prepared
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import Patch
from robustdet.attacks.victim import DetectorVictim
from robustdet.evaluation.finite_differences import finite_difference_error
from robustdet.evaluation.perturbation import changed_box, perturbation_measures
from robustdet.exact import exact
from robustdet.types import Attack, Batch, Detections, Detector, HasLosses, Images, RawPredictions

VERSION = 9  # of what is measured: stored outcomes of another version lack some of it and are made again


def predictions(detector: Detector, images: Images) -> list[Float[Tensor, "values"]]:
    """All that the detector says of each image, one after the other."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        raw = detector(images)
        return _said(raw, detector.detect(raw))


def measure(
    detector: Detector,
    attack: Attack | None,
    clean: Batch,
    images: Images,
    expected: list[Float[Tensor, "values"]] | None = None,
) -> tuple[list[Detections], list[dict[str, float]]]:
    """Detections on ``images``, made from ``clean`` by ``attack``, and per image:

    - ``positives``: number of positive default boxes; of a detector without losses that of objects to be found;
    - ``finite``: pixels, predictions and losses are; ``repeats``: a second forward pass gave the same bits (1 or 0);
    - ``as_expected``: the predictions are the ``expected`` ones, to the bit (1 or 0), where there are such;
    - those of :func:`objective_measures` and of :func:`~robustdet.evaluation.perturbation.perturbation_measures`;
    - where the detector offers losses, those of :func:`loss_measures` and of :func:`gradient_measures`.
    """
    beside = None
    if attack is not None and attack.knowledge != "nothing":
        beside = noise(clean, images, declared_size(attack) is not None)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        raw = detector(images)
        found = detector.detect(raw)
    now, again = _said(raw, found), predictions(detector, images)
    finite = images.isfinite().flatten(1).all(dim=1) & _each(lambda said: said.isfinite().all(), now).to(images.device)
    measures = {
        "positives": torch.tensor([len(target.learnable.labels) for target in clean.targets]),
        "finite": finite,
        "repeats": _same(now, again),
        **objective_measures(detector, attack, clean, images, beside),
        **perturbation_measures(clean.images, images),
    }
    if isinstance(detector, HasLosses):
        of_losses = loss_measures(detector, raw, clean, beside)
        finite &= (of_losses["classification"] + of_losses["localization"]).isfinite()
        measures |= of_losses | gradient_measures(detector, clean, images)
    if expected is not None:
        measures["as_expected"] = _same(now, expected)
    columns = {key: values.tolist() for key, values in measures.items()}
    rows = [{key: float(values[row]) for key, values in columns.items()} for row in range(len(found))]
    return [detections.to("cpu") for detections in found], rows


@torch.no_grad()
def loss_measures(detector: HasLosses, raw: Any, clean: Batch, beside: Images | None) -> dict[str, Tensor]:
    """``classification``, ``localization``: the losses per positive default box; ``positives``: number of these boxes;
    ``classification_noise``, ``localization_noise``: the losses ``beside`` the images, where there is such a place.
    """
    with torch.autocast(clean.images.device.type, enabled=False):
        assignment = detector.assign(clean.targets)
        of_images = {"": detector.losses(raw, assignment)}
        if beside is not None:
            of_images["_noise"] = detector.losses(detector(beside), assignment)
    measures: dict[str, Tensor] = {"positives": of_images[""].num_positives}
    for where, losses in of_images.items():
        measures[f"classification{where}"] = losses.each_per_positive(losses.classification)
        measures[f"localization{where}"] = losses.each_per_positive(losses.localization)
    return measures


def gradient_measures(detector: HasLosses, clean: Batch, images: Images) -> dict[str, Float[Tensor, "B"]]:
    """Of the whole loss's gradient to each image's pixels, as an attack would get it at ``images``:

    - ``gradient_zero``, ``gradient_not_finite``: share of the values that are exactly zero, that are NaN or infinite;
    - ``routing_gradient_zero``: the same as the first for the discriminator's π (its mean kernel number Σ k π_k), where
      the detector routes among two kernels or more;
    - ``finite_difference_error``: see :func:`~robustdet.evaluation.finite_differences.finite_difference_error`.
    """
    with DetectorVictim(detector).borrow(clean.targets) as model:
        pixels = images.detach().requires_grad_()
        raw = model.predict(pixels)
        routing = getattr(raw, "routing", None)
        measures = {}
        if routing is not None and routing.shape[1] > 1:  # the π of one kernel is 1 whatever the image
            kernels = torch.arange(routing.shape[1], dtype=routing.dtype, device=routing.device)
            measures["routing_gradient_zero"] = _share(_gradient(routing @ kernels, pixels) == 0)
        gradient = _gradient(model.losses_of(raw).total, pixels)
        error = finite_difference_error(lambda at: model.losses(at).total, images.detach(), gradient)
    return measures | {
        "finite_difference_error": error,
        "gradient_zero": _share(gradient == 0),
        "gradient_not_finite": _share(~gradient.isfinite()),
    }


def noise(clean: Batch, images: Images, patched: bool = False) -> Images:
    """The clean images with every value moved up or down, at random, by the largest change that ``images`` show of the
    same image; the same draws for every attack. An attack that works does more than this.

    Where a patch was changed (``patched``), every value of the smallest box that holds all changes.
    """
    size = (images - clean.images).abs().amax(dim=(1, 2, 3), keepdim=True).nan_to_num(0, posinf=1)
    generators = image_generators(0, [target.image_id for target in clean.targets], "noise of the same size")
    drawn = [torch.rand(clean.images.shape[1:], generator=generator) < 0.5 for generator in generators]
    up = torch.stack(drawn).to(clean.images.device)
    moved = torch.where(up, clean.images + size, clean.images - size).clamp(0, 1)
    if not patched:
        return moved
    made = clean.images.clone()
    for place, (left, top, right, bottom) in enumerate(changed_box(clean.images, images).long().tolist()):
        made[place, :, top:bottom, left:right] = moved[place, :, top:bottom, left:right]
    return made


def declared_size(attack: Attack | None) -> float | None:
    """The share of the image's area that the patch of an attack's threat has; None where it promises no patch."""
    threat = None if attack is None else attack.threat
    return threat.size if isinstance(threat, Patch) else None


def objective_measures(
    detector: Detector, attack: Attack | None, clean: Batch, images: Images, beside: Images | None
) -> dict[str, Float[Tensor, "B"]]:
    """What an attack with an ``objective`` climbs: its value on the clean images (``objective_clean``), on ``images``
    (``objective``) and, where there are such, on those ``beside`` them (``objective_noise``); ``objective_bound`` where
    the attack knows the largest one that there is.
    """
    if attack is None or attack.objective is None:
        return {}
    with DetectorVictim(detector).borrow(clean.targets) as model, torch.no_grad():
        objective = prepared(attack.objective, model, clean.images)
        measures = {
            "objective_clean": exact(objective(model, clean.images)),
            "objective": exact(objective(model, images)),
        }
        if beside is not None:
            measures["objective_noise"] = exact(objective(model, beside))
    if attack.objective_bound is not None:
        measures["objective_bound"] = torch.full_like(measures["objective"], attack.objective_bound)
    return measures


def _said(raw: Any, found: Sequence[Detections]) -> list[Float[Tensor, "values"]]:
    """Of each image in one row: the raw predictions, where they can be told, else the detections."""
    if isinstance(raw, RawPredictions):
        return list(torch.cat([raw.cls_logits.flatten(1), raw.bbox_regression.flatten(1)], 1))
    return [torch.cat([one.boxes.flatten(), one.scores, one.labels.to(one.scores)]) for one in found]


def _each(holds: Callable[..., Any], *rows: Sequence[Tensor]) -> Bool[Tensor, "B"]:
    return torch.tensor([bool(holds(*of_image)) for of_image in zip(*rows, strict=True)])


def _same(a: Sequence[Tensor], b: Sequence[Tensor]) -> Bool[Tensor, "B"]:
    return _each(lambda one, other: one.shape == other.shape and _equal(one, other), a, b)


def _equal(a: Float[Tensor, "values"], b: Float[Tensor, "values"]) -> Bool[Tensor, ""]:
    return ((a == b) | (a.isnan() & b.isnan())).all()


def _gradient(values: Float[Tensor, "B"], pixels: Images) -> Images:
    """Zeros where the values do not depend on the pixels by differentiable operations."""
    if not values.requires_grad:
        return torch.zeros_like(pixels)
    (gradient,) = torch.autograd.grad(values.sum(), pixels, retain_graph=True, allow_unused=True)
    return torch.zeros_like(pixels) if gradient is None else gradient


def _share(values: Bool[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    return exact(values).mean(dim=(1, 2, 3))
