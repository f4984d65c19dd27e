"""Reasons to doubt a number: each check looks at an attack's outcomes and gives a flag, a sentence, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from robustdet.evaluation.store import Outcome

TOLERANCE = 1e-3  # of 1/255: float32 pixels are exact to about 2e-5
HALF_LEVEL = 0.5  # what rounding to 8 bits may add to an image whose clean pixels are not on the 8-bit grid
LOSSES = ("classification", "localization", "total")


def attack_flags(
    clean: Mapping[str, Outcome] | None, attacked: Mapping[str, Outcome], epsilon: float | None
) -> list[str]:
    """Flags of one attack, or of the clean images (``clean`` is None).

    ``epsilon`` is the radius the attack promises, a fraction of the pixel range; None when it promises none.
    """
    flags = [not_finite(attacked), outside_pixel_range(attacked)]
    if clean is not None:
        flags.append(loss_not_raised(clean, attacked))
    if epsilon is not None:
        flags.append(outside_ball(attacked, epsilon))
    return [flag for flag in flags if flag is not None]


def not_finite(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag("not_finite: NaN or infinity in pixels, predictions or loss", outcomes, lambda m: not m["finite"])


def outside_pixel_range(outcomes: Mapping[str, Outcome]) -> str | None:
    return _flag("outside_pixel_range: pixels outside [0, 1]", outcomes, lambda m: m["outside_range"] > TOLERANCE)


def outside_ball(outcomes: Mapping[str, Outcome], epsilon: float) -> str | None:
    """Also after rounding to 8 bits: a perturbation that only exists in floating point is not one of an image file."""
    radius = 255 * epsilon
    return _flag(
        f"outside_ball: changed by more than ε = {radius:g}/255",
        outcomes,
        lambda m: m["linf"] > radius + TOLERANCE or m["linf_8bit"] > radius + HALF_LEVEL + TOLERANCE,
    )


def loss_not_raised(clean: Mapping[str, Outcome], attacked: Mapping[str, Outcome], least: float = 0.99) -> str | None:
    """An attack that does not raise the loss it climbs (the one it raises most often) has failed or was misled."""
    shares = loss_rose(clean, attacked)
    if not shares or max(shares.values()) >= least:
        return None
    name = max(shares, key=lambda loss: shares[loss])
    return f"loss_not_raised: the {name} loss rose in only {100 * shares[name]:.1f} % of the images with objects"


def loss_rose(clean: Mapping[str, Outcome], attacked: Mapping[str, Outcome]) -> dict[str, float]:
    """For each loss the share of images whose loss the attack raised, among those with objects to be found."""
    pairs = [
        (losses(clean[image_id]), losses(outcome))
        for image_id, outcome in attacked.items()
        if outcome.measures["positives"] > 0
    ]
    return {name: sum(b[name] > a[name] for a, b in pairs) / len(pairs) for name in LOSSES if pairs}


def losses(outcome: Outcome) -> dict[str, float]:
    """The image's losses per positive default box."""
    classification, localization = outcome.measures["classification"], outcome.measures["localization"]
    return {
        "classification": classification,
        "localization": localization,
        "total": classification + localization,
    }


def _flag(text: str, outcomes: Mapping[str, Outcome], wrong: Callable[[dict[str, float]], bool]) -> str | None:
    """``text`` with the number of images that are wrong and one of them by name; None when there is none."""
    culprits = [image_id for image_id, outcome in outcomes.items() if wrong(outcome.measures)]
    return f"{text} (in {len(culprits)} of {len(outcomes)} images, such as {culprits[0]})" if culprits else None
