"""The surrogate of AP with a data set's own curves: what a detection is worth among those of all other images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robustdet.attacks.ap_surrogate import SATURATED, APSurrogate, judged
from robustdet.types import Attack, Detections, Target


@dataclass(frozen=True)
class Curves:
    """The effect on mAP of one more hit, and of one more false alarm, by its class and the log-odds of its score.

    Column g is at ``low`` + g · (``high`` - ``low``)/(G - 1); between columns the curves are straight, beyond them
    constant. Row c is of label c + 1.
    """

    low: float
    high: float
    hits: Float[Tensor, "C G"]
    false_alarms: Float[Tensor, "C G"]

    @cached_property
    def digest(self) -> str:
        """Hex digest of all of it: what was attacked by other curves was attacked by another attack."""
        text = hashlib.sha256(f"{self.low} {self.high}".encode())
        for curves in (self.hits, self.false_alarms):
            text.update(f"{list(curves.shape)}".encode() + curves.cpu().numpy().tobytes())
        return text.hexdigest()

    def worth(
        self, log_odds: Float[Tensor, "D"], labels: Int[Tensor, "D"], hits: Bool[Tensor, "D"]
    ) -> Float[Tensor, "D"]:
        """Of hits and, where ``hits`` says no, of false alarms; with gradient to the log-odds."""
        both = torch.stack([self.false_alarms, self.hits]).to(log_odds)
        steps = both.shape[2] - 1
        place = ((log_odds - self.low) / (self.high - self.low) * steps).clamp(0, steps)
        left = place.detach().floor().clamp(max=steps - 1).long()
        below, above = (both[hits.long(), labels - 1, column] for column in (left, left + 1))
        return below + (place - left) * (above - below)


class AmongOthers(APSurrogate):
    """What an image adds to the AP of its data set, by the curves that :meth:`among` is given; until then a logistic.

    A cascade measures the curves at the worst case that its other attacks have found, and gives it these in a second
    round over the images (`robustdet.evaluation.cascade`). They are fixed while images are attacked: so each image's
    value depends on that image alone.
    """

    def __init__(
        self, threshold: float | int = 2.0, width: float | int = 1.5, false_alarms: float | int = 0.01
    ) -> None:
        super().__init__(threshold, width, false_alarms)
        self.curves: Curves | None = None

    def among(self, curves: Curves) -> None:
        """Attack by these curves from now on."""
        self.curves = curves

    def _held(self, found: Detections, target: Target) -> Float[Tensor, ""]:
        if self.curves is None:
            return super()._held(found, target)
        hits, false_alarms = judged(found, target)
        worth = self.curves.worth(found.scores.logit(SATURATED), found.labels, hits)
        return (worth * (hits | false_alarms)).sum()


def among_others(attack: Attack | None) -> AmongOthers | None:
    """The objective of an attack that is to be made among the others' detections; None for any other attack."""
    objective = getattr(attack, "objective", None)
    return objective if isinstance(objective, AmongOthers) else None
