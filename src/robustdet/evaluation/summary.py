"""From the outcomes of an attack, image by image, to the numbers of its record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from robustdet.evaluation.average_precision import Matched, match_detections, pooled_average_precision
from robustdet.evaluation.checks import attack_flags, has_losses, loss_rose, losses, lost_in_rounding
from robustdet.evaluation.finite_differences import is_curved, is_wrong
from robustdet.evaluation.metric import Metric
from robustdet.evaluation.objects import count_confusion, count_objects
from robustdet.evaluation.patches import patch_effect, without_hidden
from robustdet.evaluation.store import Outcome
from robustdet.evaluation.tide import count_errors
from robustdet.evaluation.worst_case import WorstCase
from robustdet.types import Knowledge, Target


def summarise(
    attacked: Mapping[str, Outcome],
    clean: Mapping[str, Outcome] | None,
    targets: Mapping[str, Target],
    metric: Metric,
    class_names: Sequence[str],
    epsilon: float | None,
    knowledge: Knowledge = "gradients",
    size: float | None = None,
) -> dict[str, Any]:
    """The measured fields of a :class:`~robustdet.evaluation.record.Record`.

    ``clean`` outcomes (None when ``attacked`` are they) and ``targets`` must hold every image of ``attacked``.
    ``class_names`` are those of labels 1..C; ``epsilon`` is the radius that the attack promises, if it does;
    ``knowledge`` is what it learns from its victim. ``size`` is the share of an image that its patch has, if it is one:
    objects that a patch hides are counted in none of ``objects``, ``errors`` and ``confusion``.
    """
    patch = None
    if clean is not None and size is not None:
        patch = patch_effect(clean, attacked, targets, metric, size)
    asked = targets if patch is None else without_hidden(attacked, targets)
    detected = {image_id: outcome.detections for image_id, outcome in attacked.items()}
    scores = metric(detected, {image_id: targets[image_id] for image_id in attacked})
    matched = {image_id: match_detections(found, targets[image_id]) for image_id, found in detected.items()}
    map_8bit, lost = in_8_bits(attacked, scores.headline.mean, matched, targets, metric)
    seconds = math.fsum(outcome.measures["seconds"] for outcome in attacked.values())
    return {
        "threat": "" if clean is None else promise(epsilon, size),
        "num_images": len(attacked),
        "ap_rule": scores.rule,
        "map": scores.headline.mean,
        "map_8bit": map_8bit,
        "area_map": scores.area_map,
        "map_50_95": scores.map_50_95,
        "per_class": dict(zip(class_names, scores.headline.per_class, strict=True)),
        "perturbation": perturbation(attacked),
        "clean_losses": mean_losses([(clean or attacked)[image_id] for image_id in attacked]),
        "attacked_losses": mean_losses(attacked.values()),
        "loss_rose": {} if clean is None else loss_rose(clean, attacked),
        "flags": attack_flags(clean, attacked, epsilon, knowledge, size) + lost,
        "gradients": gradient_shares(attacked),
        "objects": count_objects(clean or attacked, attacked, asked),
        "errors": count_errors(detected, asked),
        "confusion": count_confusion(attacked, asked),
        "patch": patch,
        "image_ap": mean_image_ap({key: pooled_average_precision(of) for key, of in matched.items()}, targets),
        "seconds": seconds,
        "forward_passes": finite_mean([outcome.measures["forward_passes"] for outcome in attacked.values()]),
        "images_per_second": len(attacked) / max(seconds, 1e-9),
    }


def in_8_bits(
    attacked: Mapping[str, Outcome],
    map: float,
    matched: Mapping[str, Matched],
    targets: Mapping[str, Target],
    metric: Metric,
) -> tuple[float | None, list[str]]:
    """mAP after rounding to 8 bits, None where it was not measured, and the flag of `lost_in_rounding` if raised."""
    rounded = {key: found for key, outcome in attacked.items() if (found := outcome.detections_8bit) is not None}
    if len(rounded) < len(attacked):
        return None, []
    map_8bit = metric(rounded, {key: targets[key] for key in rounded}).headline.mean
    again = {key: match_detections(found, targets[key]) for key, found in rounded.items()}
    lost = lost_in_rounding(map, map_8bit, matched, again)
    return map_8bit, [] if lost is None else [lost]


def promise(epsilon: float | None, size: float | None = None) -> str:
    """Where an attack of this radius, or with a patch of this size, promises to stay; one without either is held to the
    range of pixels.
    """
    if size is not None:
        return f"patch of {100 * size:g} %"
    return "pixel range" if epsilon is None else f"L∞ {255 * epsilon:g}/255"


def worst_fields(worst: WorstCase) -> dict[str, Any]:
    """What a worst case's record says otherwise, and besides, than :func:`summarise` of the chosen outcomes."""
    return {
        "image_ap": mean_image_ap(worst.image_ap, worst.targets),
        "area_bound": worst.area_bound,
        "chosen": worst.chosen,
    }


def mean_image_ap(image_ap: Mapping[str, float], targets: Mapping[str, Target]) -> float | None:
    """Over the images with an object that counts; None where there is none."""
    asked = [ap for image_id, ap in image_ap.items() if len(targets[image_id].learnable.labels)]
    return finite_mean(asked) if asked else None


def perturbation(outcomes: Mapping[str, Outcome]) -> dict[str, float | None]:
    """Largest and mean change of pixel values, in 1/255, and the mean share of changed pixels."""

    def column(name: str) -> list[float]:
        return [outcome.measures[name] for outcome in outcomes.values()]

    return {
        "linf_max": finite(np.max(column("linf"))),
        "linf_mean": finite_mean(column("linf")),
        "linf_8bit_max": finite(np.max(column("linf_8bit"))),
        "mean_change": finite_mean(column("mean_change")),
        "changed": finite_mean(column("changed")),
    }


def gradient_shares(outcomes: Mapping[str, Outcome]) -> dict[str, float | None]:
    """See :class:`~robustdet.evaluation.record.Record`; over images with objects, empty where there is none of it."""
    rows = [outcome.measures for outcome in outcomes.values() if outcome.measures["positives"] > 0]
    if not rows or "gradient_zero" not in rows[0]:
        return {}
    shares = {
        "zero": finite_mean([row["gradient_zero"] for row in rows]),
        "not_finite": finite_mean([row["gradient_not_finite"] for row in rows]),
        "wrong_images": finite_mean([float(is_wrong(row)) for row in rows]),
        "curved_images": finite_mean([float(is_curved(row)) for row in rows]),
        "zero_images": finite_mean([float(row["gradient_zero"] == 1) for row in rows]),
    }
    if "routing_gradient_zero" in rows[0]:
        shares["zero_routing_images"] = finite_mean([float(row["routing_gradient_zero"] == 1) for row in rows])
    return shares


def mean_losses(outcomes: Iterable[Outcome]) -> dict[str, float | None]:
    """Nothing of a detector that offers none."""
    rows = [losses(outcome) for outcome in outcomes if has_losses(outcome)]
    return {name: finite_mean([row[name] for row in rows]) for name in rows[0]} if rows else {}


def finite_mean(values: Sequence[float]) -> float | None:
    return finite(np.mean(values))


def finite(value: np.floating) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None
