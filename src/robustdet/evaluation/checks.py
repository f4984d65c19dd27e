"""Reasons to doubt a number: each check looks at an attack's outcomes and gives a flag, a sentence, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np

from robustdet.evaluation.average_precision import Matched
from robustdet.evaluation.chance import DEVIATIONS, less_than_chance, more_than_chance, resampled_map
from robustdet.evaluation.finite_differences import STEPS, is_curved, is_wrong
from robustdet.evaluation.perturbation import TOLERANCE, changed_size
from robustdet.evaluation.store import Outcome
from robustdet.types import Knowledge

HALF_LEVEL = 0.5  # what rounding to 8 bits may add to an image whose clean pixels are not on the 8-bit grid
FEW = 0.03  # of the images, in which the gradient and the slope of the loss may differ at a kink
LOSSES = ("classification", "localization", "total")
ROUNDING = 0.005  # of mAP, that saving images in 8 bits may change
LEAST_RISEN = 0.99  # of the images, in which an attack that works raises what it climbs
RISE = 1e-3  # of the clean image's value: less is nothing but rounding

FlagName = Literal[
    "not_finite",
    "outside_pixel_range",
    "outside_ball",
    "outside_patch",
    "loss_not_raised",
    "no_gradient",
    "gradient_not_finite",
    "gradient_wrong",
    "curved_loss",
    "no_routing_gradient",
    "random_forward",
    "differs_at_zero",
    "more_steps_help",
    "larger_epsilon_helps",
    "survives_any_change",
    "coarse_steps",
    "beaten_by_black_box",
    "loss_beaten_by_black_box",
    "beaten_by_adaptive",
    "beaten_by_the_unseen",
    "beaten_by_own_predictions",
    "lost_in_rounding",
    "other_settings",
    "other_precision",
]
FLAGS: tuple[FlagName, ...] = get_args(FlagName)  # all that there are; docs/flags.md explains each


def flag(name: FlagName, sentence: str) -> str:
    """A flag as a record carries it."""
    return f"{name}: {sentence}"


def attack_flags(
    clean: Mapping[str, Outcome] | None,
    attacked: Mapping[str, Outcome],
    epsilon: float | None,
    knowledge: Knowledge = "gradients",
    size: float | None = None,
) -> list[str]:
    """Flags of one attack, or of the clean images (``clean`` is None).

    ``epsilon`` is the radius the attack promises, a fraction of the pixel range; None when it promises none.
    ``knowledge`` is what it learns from its victim, ``size`` the share of the image that its patch has, if it has one.
    """
    flags = [
        not_finite(attacked),
        outside_pixel_range(attacked),
        random_forward(attacked),
        no_gradient(attacked),
        gradient_not_finite(attacked),
        gradient_wrong(attacked),
        curved_loss(attacked),
        no_routing_gradient(attacked),
    ]
    if epsilon is not None:
        flags.append(outside_ball(attacked, epsilon))
    if size is not None:
        flags.append(outside_patch(attacked, size))
    if clean is not None and epsilon == 0:
        flags.append(differs_at_zero(attacked))
    elif clean is not None and knowledge != "nothing":
        flags.append(loss_not_raised(clean, attacked))
    return [raised for raised in flags if raised is not None]


def not_finite(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag("not_finite", "NaN or infinity in pixels, predictions or loss", outcomes, lambda m: not m["finite"])


def outside_pixel_range(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag("outside_pixel_range", "pixels outside [0, 1]", outcomes, lambda m: m["outside_range"] > TOLERANCE)


def outside_ball(outcomes: Mapping[str, Outcome], epsilon: float) -> str | None:
    """Also after rounding to 8 bits: a perturbation that only exists in floating point is not one of an image file."""
    radius = 255 * epsilon
    return _flag(
        "outside_ball",
        f"changed by more than ε = {radius:g}/255",
        outcomes,
        lambda m: m["linf"] > radius + TOLERANCE or m["linf_8bit"] > radius + HALF_LEVEL + TOLERANCE,
    )


def outside_patch(outcomes: Mapping[str, Outcome], size: float) -> str | None:
    """A patch is a square."""
    return _flag(
        "outside_patch",
        f"changed outside a square of {100 * size:g} % of the image",
        outcomes,
        lambda m: max(changed_size(m)) ** 2 > size * m["image_pixels"],
    )


def random_forward(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag("random_forward", "a second forward pass gave other predictions", outcomes, lambda m: not m["repeats"])


def no_gradient(outcomes: Mapping[str, Outcome]) -> str | None:
    """In images with objects, whose loss has something to say."""
    return _flag(
        "no_gradient",
        "the loss's gradient to the pixels is zero everywhere",
        _with_objects(_measured(outcomes, "gradient_zero")),
        lambda m: m["gradient_zero"] == 1,
    )


def gradient_not_finite(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag(
        "gradient_not_finite",
        "NaN or infinity in the loss's gradient to the pixels",
        _measured(outcomes, "gradient_not_finite"),
        lambda m: m["gradient_not_finite"] > 0,
    )


def gradient_wrong(outcomes: Mapping[str, Outcome]) -> str | None:
    """More images with objects than `FEW` allows: a few may lie where the loss has no slope."""
    return _flag(
        "gradient_wrong",
        "the gradient is not the slope of the loss, by finite differences",
        _with_objects(_measured(outcomes, "finite_difference_error")),
        is_wrong,
        tolerated=FEW,
    )


def curved_loss(outcomes: Mapping[str, Outcome]) -> str | None:
    """In as many images the gradient does not hold for the smallest of steps, and is wrong in fewer."""
    if gradient_wrong(outcomes) is not None:
        return None
    return _flag(
        "curved_loss",
        f"the loss curves so sharply that its gradient does not hold for a step of {255 * min(STEPS):g}/255",
        _with_objects(_measured(outcomes, "finite_difference_error_coarse")),
        lambda m: is_wrong(m) or is_curved(m),
        tolerated=FEW,
    )


def no_routing_gradient(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag(
        "no_routing_gradient",
        "the gradient of π, which routes the image, is zero for every pixel",
        outcomes,
        lambda m: m.get("routing_gradient_zero", 0) == 1,
    )


def differs_at_zero(outcomes: Mapping[str, Outcome]) -> str | None:
    """An attack that may change nothing has to leave the predictions as they were before it, to the bit."""
    return _flag("differs_at_zero", "ε = 0 changed the predictions", outcomes, lambda m: m["as_expected"] == 0)


def loss_not_raised(clean: Mapping[str, Outcome], attacked: Mapping[str, Outcome]) -> str | None:
    """An attack that does not raise what it climbs has failed or was misled.

    That is its objective, where it has one; else the loss that it raises most often. It is flagged where chance does
    not explain how few images that is, if it should be `LEAST_RISEN` of them.
    """
    columns = risen(clean, attacked)
    if "objective" in columns:
        columns = {"objective": columns["objective"]}
    if not columns:
        return None
    name = max(columns, key=lambda loss: sum(columns[loss]))
    rose, images = sum(columns[name]), len(columns[name])
    if not less_than_chance(rose, images, LEAST_RISEN):
        return None
    what = "the attack's own objective" if name == "objective" else f"the {name} loss"
    return flag("loss_not_raised", f"{what} rose above that of noise in only {rose} of {images} images with objects")


def loss_rose(clean: Mapping[str, Outcome], attacked: Mapping[str, Outcome]) -> dict[str, float]:
    """The share of images of each of :func:`risen`."""
    return {name: sum(column) / len(column) for name, column in risen(clean, attacked).items()}


def risen(clean: Mapping[str, Outcome], attacked: Mapping[str, Outcome]) -> dict[str, list[bool]]:
    """For each loss, and for the attack's objective if it has one, image by image whether the attack raised it: above
    what it is on the clean image by more than `RISE`, and above what noise of the same size makes of it.

    Only images with objects to be found are asked, but for those where the objective was as high as it can be from the
    start; an objective that is so under attack has risen, whatever noise did.
    """
    asked = [(clean[name], one) for name, one in _with_objects(attacked).items() if not _at_its_bound(one, "_clean")]
    lost = LOSSES if asked and has_losses(asked[0][1]) else ()
    columns = {name: [_above(before, one, name) for before, one in asked] for name in lost}
    if asked and all("objective" in one.measures for _, one in asked):
        columns["objective"] = [
            _rose(one.measures["objective"], one.measures["objective_clean"], one.measures.get("objective_noise"))
            or _at_its_bound(one)
            for _, one in asked
        ]
    return columns


def has_losses(outcome: Outcome) -> bool:
    """Whether the detector offered them."""
    return "classification" in outcome.measures


def losses(outcome: Outcome, where: str = "") -> dict[str, float]:
    """The image's losses per positive default box; ``where`` is "_noise" for those under noise."""
    classification, localization = (outcome.measures[f"{name}{where}"] for name in LOSSES[:2])
    return {
        "classification": classification,
        "localization": localization,
        "total": classification + localization,
    }


def _above(clean: Outcome, attacked: Outcome, name: str) -> bool:
    noise = losses(attacked, "_noise")[name] if "classification_noise" in attacked.measures else None
    return _rose(losses(attacked)[name], losses(clean)[name], noise)


def _rose(value: float, clean: float, noise: float | None) -> bool:
    return value > clean + RISE * abs(clean) and (noise is None or value > noise)


def _with_objects(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    return {name: outcome for name, outcome in outcomes.items() if outcome.measures["positives"] > 0}


def _measured(outcomes: Mapping[str, Outcome], name: str) -> dict[str, Outcome]:
    """Those of detectors of which this can be measured."""
    return {key: outcome for key, outcome in outcomes.items() if name in outcome.measures}


def _at_its_bound(outcome: Outcome, where: str = "") -> bool:
    measures = outcome.measures
    return "objective_bound" in measures and measures[f"objective{where}"] >= measures["objective_bound"]


def _flag(
    name: FlagName,
    sentence: str,
    outcomes: Mapping[str, Outcome],
    wrong: Callable[[dict[str, float]], bool],
    tolerated: float = 0.0,
) -> str | None:
    """The flag with the number of images that are wrong and one of them by name.

    None when there is none, or no more than chance explains if a share ``tolerated`` of all images is wrong.
    """
    culprits = [key for key, outcome in outcomes.items() if wrong(outcome.measures)]
    if not culprits or not more_than_chance(len(culprits), len(outcomes), tolerated):
        return None
    return flag(name, f"{sentence} (in {len(culprits)} of {len(outcomes)} images, such as {culprits[0]})")


def lost_in_rounding(
    map: float, map_8bit: float, matched: Mapping[str, Matched], matched_8bit: Mapping[str, Matched]
) -> str | None:
    """Rounding changes mAP, down or up, by more than `ROUNDING`, and not by the chance of these images.

    Chance is judged by the bootstrap, see :mod:`robustdet.evaluation.chance`.
    """
    if abs(map_8bit - map) <= ROUNDING or len(matched) < 2:
        return None
    before, after = (resampled_map([of[name] for name in sorted(of)]) for of in (matched, matched_8bit))
    differences = after - before
    if not abs(differences[0]) > DEVIATIONS * np.nanstd(differences[1:]):
        return None
    return flag(
        "lost_in_rounding", f"{100 * map:.1f} mAP become {100 * map_8bit:.1f} when the images are saved in 8 bits"
    )
