"""Reasons to doubt a number: each check looks at an attack's outcomes and gives a flag, a sentence, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from robustdet.evaluation.perturbation import TOLERANCE
from robustdet.evaluation.store import Outcome
from robustdet.types import Knowledge

HALF_LEVEL = 0.5  # what rounding to 8 bits may add to an image whose clean pixels are not on the 8-bit grid
LOSSES = ("classification", "localization", "total")

FlagName = Literal[
    "not_finite",
    "outside_pixel_range",
    "outside_ball",
    "loss_not_raised",
    "no_gradient",
    "gradient_not_finite",
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
) -> list[str]:
    """Flags of one attack, or of the clean images (``clean`` is None).

    ``epsilon`` is the radius the attack promises, a fraction of the pixel range; None when it promises none.
    ``knowledge`` is what it learns from its victim.
    """
    flags = [
        not_finite(attacked),
        outside_pixel_range(attacked),
        random_forward(attacked),
        no_gradient(attacked),
        gradient_not_finite(attacked),
        no_routing_gradient(attacked),
    ]
    if epsilon is not None:
        flags.append(outside_ball(attacked, epsilon))
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


def random_forward(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag("random_forward", "a second forward pass gave other predictions", outcomes, lambda m: not m["repeats"])


def no_gradient(outcomes: Mapping[str, Outcome]) -> str | None:
    """In images with objects, whose loss has something to say."""
    return _flag(
        "no_gradient",
        "the loss's gradient to the pixels is zero everywhere",
        _with_objects(outcomes),
        lambda m: m["gradient_zero"] == 1,
    )


def gradient_not_finite(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag(
        "gradient_not_finite",
        "NaN or infinity in the loss's gradient to the pixels",
        outcomes,
        lambda m: m["gradient_not_finite"] > 0,
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


def loss_not_raised(clean: Mapping[str, Outcome], attacked: Mapping[str, Outcome], least: float = 0.99) -> str | None:
    """An attack that does not raise what it climbs has failed or was misled.

    That is its objective, where it has one; else the loss that it raises most often.
    """
    shares = loss_rose(clean, attacked)
    if "objective" in shares:
        shares = {"objective": shares["objective"]}
    if not shares or max(shares.values()) >= least:
        return None
    name = max(shares, key=lambda loss: shares[loss])
    what = "the attack's own objective" if name == "objective" else f"the {name} loss"
    return flag("loss_not_raised", f"{what} rose in only {100 * shares[name]:.1f} % of the images with objects")


def loss_rose(clean: Mapping[str, Outcome], attacked: Mapping[str, Outcome]) -> dict[str, float]:
    """For each loss, and for the attack's objective if it has one, the share of images where the attack raised it.

    Among those with objects to be found, but for those where the objective was as high as it can be from the start.
    """
    asked = {name: outcome for name, outcome in _with_objects(attacked).items() if not _at_its_bound(outcome)}
    pairs = [(losses(clean[name]), losses(outcome)) for name, outcome in asked.items()]
    if not pairs:
        return {}
    shares = {name: sum(b[name] > a[name] for a, b in pairs) / len(pairs) for name in LOSSES}
    climbed = [o.measures for o in asked.values() if "objective" in o.measures]
    if len(climbed) == len(pairs):
        shares["objective"] = sum(m["objective"] > m["objective_clean"] for m in climbed) / len(climbed)
    return shares


def losses(outcome: Outcome) -> dict[str, float]:
    """The image's losses per positive default box."""
    classification, localization = outcome.measures["classification"], outcome.measures["localization"]
    return {
        "classification": classification,
        "localization": localization,
        "total": classification + localization,
    }


def _with_objects(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    return {name: outcome for name, outcome in outcomes.items() if outcome.measures["positives"] > 0}


def _at_its_bound(outcome: Outcome) -> bool:
    measures = outcome.measures
    return "objective_bound" in measures and measures["objective_clean"] >= measures["objective_bound"]


def _flag(
    name: FlagName, sentence: str, outcomes: Mapping[str, Outcome], wrong: Callable[[dict[str, float]], bool]
) -> str | None:
    """The flag with the number of images that are wrong and one of them by name; None when there is none."""
    culprits = [key for key, outcome in outcomes.items() if wrong(outcome.measures)]
    if not culprits:
        return None
    return flag(name, f"{sentence} (in {len(culprits)} of {len(outcomes)} images, such as {culprits[0]})")
