"""What an attack maximises: a function of a borrowed victim and images that gives every image its own value.

Each value depends on its own image alone and a sign attack ignores its scale, so a batch gives every image the same
attack as a batch of one. The published attacks divide by the number of positives; that changes no sign.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from robustdet.types import BorrowedVictim, Images


@runtime_checkable
class Objective(Protocol):
    def __call__(self, model: BorrowedVictim, images: Images, /) -> Float[Tensor, "B"]: ...


def a_cls(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """A_cls: the classification loss (MTD, ICCV 2019)."""
    return model.losses(images).classification


def a_loc(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """A_loc: the localisation loss (MTD, ICCV 2019)."""
    return model.localization(images)


def total(model: BorrowedVictim, images: Images) -> Float[Tensor, "B"]:
    """The whole detection loss."""
    return model.losses(images).total
