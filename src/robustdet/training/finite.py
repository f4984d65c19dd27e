"""Losses and gradients of a training are watched for NaN and infinity, without a GPU's waiting for its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

EVERY = 20  # updates, after which a GPU is waited for
WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a number: whole numbers as long


@dataclass(frozen=True)
class Watched:
    """Named numbers of one step, [names], and ``where`` they come from: update and images."""

    names: list[str]
    values: Float[Tensor, "names"]
    where: str

    def named(self) -> dict[str, float]:
        return dict(zip(self.names, self.values.tolist(), strict=True))


class Finiteness:
    """What was said and not yet looked at: looking makes the host wait, and costs nothing on a CPU."""

    def __init__(self) -> None:
        self._waiting: list[Watched] = []

    def watch(self, one: Watched) -> None:
        self._waiting.append(one)

    def first_fault(self) -> Watched | None:
        """The first of all that waits of which a number is not finite, in main memory; nothing waits any more."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return None
        values = torch.cat([one.values.detach() for one in waiting]).cpu()
        for one, own in zip(waiting, values.split([len(one.names) for one in waiting]), strict=True):
            if not bool(own.isfinite().all()):
                return Watched(one.names, own, one.where)
        return None


def every(device: torch.device) -> int:
    """After how many updates finiteness is looked at: a CPU's each time, before anything comes of it."""
    return 1 if device.type == "cpu" else EVERY


def largest(gradients: Mapping[str, Tensor]) -> Float[Tensor, "names"]:
    """Of each of these gradients the largest magnitude; NaN where there is one."""
    return torch.stack(torch._foreach_norm(list(gradients.values()), float("inf")))


@torch.no_grad()
def zero_unless_finite(gradients: Mapping[str, Tensor], sizes: Float[Tensor, "names"]) -> None:
    """All ``gradients`` become 0 where one of ``sizes`` is not finite: the weights outlive what nobody has seen yet.

    As whole numbers, because 0 times NaN is NaN; in a few launches for all.
    """
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients.values():
        word = WORDS[gradient.element_size()]
        by_type.setdefault(word, []).append(gradient.view(word))
    for word, bits in by_type.items():
        torch._foreach_mul_(bits, sizes.isfinite().all().to(word))
