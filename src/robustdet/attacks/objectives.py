"""What attacks maximise: functions of a borrowed victim and images that give every image its own value.

Each value depends on its own image alone and a sign attack ignores its scale, so a batch gives every image the same
attack as a batch of one. The published attacks divide by the number of positives; that changes no sign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from robustdet.types import BorrowedVictim, Images, Objective, Offer, PreparedObjective

Kind = TypeVar("Kind", bound=Callable[..., Any])


def needing(offer: Offer) -> Callable[[Kind], Kind]:
    """Says of an objective what its victim has to offer, where that is not its losses."""

    def marked(objective: Kind) -> Kind:
        objective.needs = offer  # type: ignore[attr-defined]
        return objective

    return marked


def needs_of(objective: Any) -> Offer:
    """What an objective asks of a victim: what it says, else losses; None asks for nothing."""
    return "detections" if objective is None else getattr(objective, "needs", "losses")


def a_cls(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """A_cls: the classification loss (MTD, ICCV 2019)."""
    return model.losses(images).classification


def a_loc(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """A_loc: the localisation loss (MTD, ICCV 2019)."""
    return model.localization(images)


def total(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """The whole detection loss."""
    return model.losses(images).total


def prepared(objective: Objective | PreparedObjective, model: BorrowedVictim, clean: Images) -> Objective:
    """``objective``, after it has looked at the ``clean`` images where it needs to. To be called once an attack."""
    if isinstance(objective, PreparedObjective):
        with torch.no_grad():
            return objective.prepare(model, clean)
    return objective


def comparable(value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """NaN as -inf: no number is higher than NaN, so that an image would keep the first that it meets."""
    return value.where(~value.isnan(), -torch.inf)
