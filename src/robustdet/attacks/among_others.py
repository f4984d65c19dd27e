"""The surrogate of AP with a data set's own curves: what a detection is worth among those of all other images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from robustdet.attacks.ap_surrogate import APSurrogate
from robustdet.attacks.base import BaseAttack
from robustdet.attacks.threat import LInf
from robustdet.types import Images, Targets, Victim


@dataclass(frozen=True)
class Curves:
    """The effect on mAP of one more false alarm (``effects[0]``) and of one more hit (``effects[1]``), class by class.

    Row c is of label c + 1; column g of log-odds ``low`` + g · (``high`` - ``low``)/(G - 1) of the score. Between
    columns the curves are straight, beyond them constant; a class that they lack has no effect.
    """

    low: float
    high: float
    effects: Float[Tensor, "2 C G"]

    @cached_property
    def digest(self) -> str:
        """Hex digest of all of it: what was attacked by other curves was attacked by another attack."""
        text = hashlib.sha256(f"{self.low} {self.high} {list(self.effects.shape)}".encode())
        text.update(self.effects.cpu().numpy().tobytes())
        return text.hexdigest()

    def to(self, device: torch.device | str) -> Curves:
        return Curves(self.low, self.high, self.effects.to(device))

    def worth(
        self, log_odds: Float[Tensor, "D"], labels: Int[Tensor, "D"], hits: Bool[Tensor, "D"]
    ) -> Float[Tensor, "D"]:
        """Of hits and, where ``hits`` says no, of false alarms; with gradient to the log-odds."""
        _, classes, columns = self.effects.shape
        place = ((log_odds - self.low) / (self.high - self.low) * (columns - 1)).clamp(0, columns - 1)
        left = place.detach().floor().clamp(max=columns - 2).long()
        row = (labels - 1).clamp(max=classes - 1)
        below, above = (self.effects[hits.long(), row, column].to(log_odds) for column in (left, left + 1))
        return (below + (place - left) * (above - below)) * (labels <= classes)


class AmongOthers(APSurrogate):
    """What an image adds to the AP of its data set, by the curves that :meth:`among` is given; until then a logistic.

    A cascade measures the curves at the worst case that the attacks before have found, and attacks by these in a
    further round over the images (`robustdet.evaluation.cascade`). They are fixed while images are attacked: so each
    image's value depends on that image alone.
    """

    curves: Curves | None = None

    def among(self, curves: Curves) -> None:
        """Attack by these curves from now on."""
        self.curves = curves

    def _worth(
        self, log_odds: Float[Tensor, "D"], labels: Int[Tensor, "D"], hits: Bool[Tensor, "D"]
    ) -> Float[Tensor, "D"]:
        if self.curves is None:
            return super()._worth(log_odds, labels, hits)
        if self.curves.effects.device != log_odds.device:
            self.curves = self.curves.to(log_odds.device)
        return self.curves.worth(log_odds, labels, hits)


class ChosenSoFar(BaseAttack):
    """The images that the worst case has chosen before this round of a cascade, to go on from; else they stay clean.

    They come in 8 bits. ``images_of`` is given by the cascade.
    """

    images_of: Callable[[Victim, Images, Targets], Images] | None = None

    def __init__(self, threat: LInf) -> None:
        self.threat = threat

    def __call__(
        self, victim: Victim, images: Images, targets: Targets, generators: Sequence[torch.Generator]
    ) -> Images:
        return images if self.images_of is None else self.images_of(victim, images, targets)


Kind = TypeVar("Kind", AmongOthers, ChosenSoFar)


def held(holder: Any, kind: type[Kind]) -> Iterator[Kind]:
    """Every object of this kind that an attack, or whatever ``holder`` is, holds at any depth."""
    seen, found = set(), [holder]
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, type | nn.Module | Tensor):
            continue
        seen.add(id(one))
        if isinstance(one, kind):
            yield one
        elif isinstance(one, Mapping):
            found += one.values()
        elif isinstance(one, list | tuple):
            found += one
        else:
            found += getattr(one, "__dict__", {}).values()
