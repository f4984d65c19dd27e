"""Operations of convolutions and matrix products, counted as they run: torch's own counter cannot follow an attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Arithmetic(TorchDispatchMode):
    """``total`` counts a multiplication and its addition as two."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def counted(work: Callable[[], Any]) -> float:
    """10¹² operations of one run."""
    with Arithmetic() as counter:
        work()
    return counter.total / 1e12
