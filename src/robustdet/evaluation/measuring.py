"""All that is measured of a batch of images, clean or attacked: detections, and numbers for every image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robustdet.attacks.objectives import prepared
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import Patch
from robustdet.attacks.victim import Alteration, DetectorVictim, Forward
from robustdet.evaluation.finite_differences import finite_difference_errors
from robustdet.evaluation.perturbation import changed_box, perturbation_measures
from robustdet.exact import exact
from robustdet.types import Attack, Batch, Detections, Detector, HasLosses, Images, RawPredictions, in_main_memory

VERSION = 9  # of what is measured: stored outcomes of another version lack some of it and are made again


Said: TypeAlias = Float[Tensor, "B values"] | list[Float[Tensor, "_"]]


def predictions(detector: Detector, images: Images) -> Said:
    """All that the detector says of each image, one after the other."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        raw = detector(images)
        return _said(raw, [] if isinstance(raw, RawPredictions) else detector.detect(raw))


def measure(
    detector: Detector,
    attack: Attack | None,
    clean: Batch,
    images: Images,
    expected: Said | None = None,
) -> tuple[list[Detections], list[dict[str, float]]]:
    """Detections on ``images``, made from ``clean`` by ``attack``, and per image:

    - ``positives``: number of positive default boxes; of a detector without losses that of objects to be found;
    - ``finite``: pixels, predictions and losses are; ``repeats``: a second forward pass gave the same bits (1 or 0);
    - ``as_expected``: the predictions are the ``expected`` ones, to the bit (1 or 0), where there are such;
    - those of :func:`objective_measures` and of :func:`~robustdet.evaluation.perturbation.perturbation_measures`;
    - where the detector offers losses, those of :func:`loss_measures` and of :func:`gradient_measures`.
    """
    asks = attack is not None and attack.knowledge != "nothing"
    looks = isinstance(detector, HasLosses) or (attack is not None and attack.objective is not None)
    beside = noise(clean, images, declared_size(attack) is not None) if asks and looks else None
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        raws = [(place, detector(place)) for place in (images, beside) if place is not None]
        raw = raws[0][1]
        found = detector.detect(raw)
        assignment, of_losses = None, {}
        if isinstance(detector, HasLosses):
            assignment = detector.assign(clean.targets)
            of_losses = loss_measures(detector, [said for _, said in raws], assignment)
    now, again = _said(raw, found), predictions(detector, images)
    finite = images.isfinite().flatten(1).all(dim=1) & _each(lambda said: said.isfinite(), now).to(images.device)
    if of_losses:
        finite &= (of_losses["classification"] + of_losses["localization"]).isfinite()
    measures = {
        "positives": torch.tensor([len(target.learnable.labels) for target in clean.targets]),
        "finite": finite,
        "repeats": _same(now, again),
        **objective_measures(detector, attack, clean, raws, assignment),
        **perturbation_measures(clean.images, images),
        **of_losses,
    }
    if isinstance(detector, HasLosses):
        measures |= gradient_measures(detector, clean, images, assignment)
    if expected is not None:
        measures["as_expected"] = _same(now, expected)
    columns = _values(measures)
    rows = [{key: float(values[row]) for key, values in columns.items()} for row in range(len(found))]
    return in_main_memory(found), rows


def _values(columns: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """The numbers of all columns, for which the host waits once."""
    values: dict[str, list[float]] = {}
    for on_host in (True, False):
        some = {name: column for name, column in columns.items() if (column.device.type == "cpu") == on_host}
        if some:
            values |= zip(some, torch.stack([exact(column) for column in some.values()]).tolist(), strict=True)
    return {name: values[name] for name in columns}


@torch.no_grad()
def loss_measures(detector: HasLosses, raws: Sequence[Any], assignment: Any) -> dict[str, Tensor]:
    """``classification``, ``localization``: the losses per positive default box; ``positives``: number of these boxes;
    ``classification_noise``, ``localization_noise``: the losses beside the images, where ``raws`` tell of these too.
    """
    of_images = {where: detector.losses(raw, assignment) for where, raw in zip(("", "_noise"), raws, strict=False)}
    measures: dict[str, Tensor] = {"positives": of_images[""].num_positives}
    for where, losses in of_images.items():
        measures[f"classification{where}"] = losses.each_per_positive(losses.classification)
        measures[f"localization{where}"] = losses.each_per_positive(losses.localization)
    return measures


def gradient_measures(
    detector: HasLosses, clean: Batch, images: Images, assignment: Any
) -> dict[str, Float[Tensor, "B"]]:
    """Of the whole loss's gradient to each image's pixels, as an attack would get it at ``images``:

    - ``gradient_zero``, ``gradient_not_finite``: share of the values that are exactly zero, that are NaN or infinite;
    - ``routing_gradient_zero``: the same as the first for the discriminator's π (its mean kernel number Σ k π_k), where
      the detector routes among two kernels or more;
    - ``finite_difference_error``, ``finite_difference_error_coarse``: see
      :func:`~robustdet.evaluation.finite_differences.finite_difference_errors`.
    """
    with DetectorVictim(detector).borrow(clean.targets, assignment) as model:
        pixels = images.detach().requires_grad_()
        raw = model.predict(pixels)
        routing = getattr(raw, "routing", None)
        measures = {}
        if routing is not None and routing.shape[1] > 1:  # the π of one kernel is 1 whatever the image
            kernels = torch.arange(routing.shape[1], dtype=routing.dtype, device=routing.device)
            measures["routing_gradient_zero"] = _share(_gradient(routing @ kernels, pixels) == 0)
        gradient = _gradient(model.losses_of(raw).total, pixels)
        error, coarse = finite_difference_errors(lambda at: model.losses(at).total, images.detach(), gradient)
    return measures | {
        "finite_difference_error": error,
        "finite_difference_error_coarse": coarse,
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
    detector: Detector, attack: Attack | None, clean: Batch, raws: Sequence[tuple[Images, Any]], assignment: Any
) -> dict[str, Float[Tensor, "B"]]:
    """What an attack with an ``objective`` climbs: its value on the clean images (``objective_clean``), on ``images``
    (``objective``) and, where there are such, on those beside them (``objective_noise``); ``objective_bound`` where
    the attack knows the largest one that there is. ``raws`` are these places, with what the detector says there.
    """
    if attack is None or attack.objective is None:
        return {}
    with DetectorVictim(detector).borrow(clean.targets, assignment) as borrowed, torch.no_grad():
        model = borrowed.altered(_remembering(raws))
        objective = prepared(attack.objective, model, clean.images)
        places = {"objective_clean": clean.images} | dict(
            zip(("objective", "objective_noise"), (place for place, _ in raws), strict=False)
        )
        measures = {name: exact(objective(model, place)) for name, place in places.items()}
    if attack.objective_bound is not None:
        measures["objective_bound"] = torch.full_like(measures["objective"], attack.objective_bound)
    return measures


def _remembering(raws: Sequence[tuple[Images, Any]]) -> Alteration:
    """The same forward pass, but what it said of these images is known."""

    def how(forward: Forward) -> Forward:
        def other(images: Images, routing: Tensor | None = None, /) -> Any:
            known = [raw for place, raw in raws if place is images and routing is None]
            return known[0] if known else forward(images, routing)

        return other

    return how


def _said(raw: Any, found: Sequence[Detections]) -> Said:
    """Of each image in one row: the raw predictions, where they can be told, else the detections."""
    if isinstance(raw, RawPredictions):
        return torch.cat([raw.cls_logits.flatten(1), raw.bbox_regression.flatten(1)], 1)
    return [torch.cat([one.boxes.flatten(), one.scores, one.labels.to(one.scores)]) for one in found]


def _each(holds: Callable[..., Tensor], *rows: Said) -> Bool[Tensor, "B"]:
    """Whether it ``holds`` of all values of an image."""
    if all(isinstance(one, Tensor) for one in rows):
        return holds(*rows).all(dim=1)
    return torch.tensor([bool(holds(*of_image).all()) for of_image in zip(*rows, strict=True)], dtype=torch.bool)


def _same(a: Said, b: Said) -> Bool[Tensor, "B"]:
    return _each(_equal, a, b)


def _equal(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    if a.shape != b.shape:
        return a.new_zeros([*a.shape[:-1], 1], dtype=torch.bool)
    return (a == b) | (a.isnan() & b.isnan())


def _gradient(values: Float[Tensor, "B"], pixels: Images) -> Images:
    """Zeros where the values do not depend on the pixels by differentiable operations."""
    if not values.requires_grad:
        return torch.zeros_like(pixels)
    (gradient,) = torch.autograd.grad(values.sum(), pixels, retain_graph=True, allow_unused=True)
    return torch.zeros_like(pixels) if gradient is None else gradient


def _share(values: Bool[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    return exact(values).mean(dim=(1, 2, 3))
