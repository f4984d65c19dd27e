"""The processes of one distributed run as one: each has its share of a batch, and together they count, gather, agree.

In a process that is alone all of these are the identity, so that nobody has to ask. All processes have to call them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def share(count: int) -> int:
    """How many of the first ``count`` images are this process's when they are dealt out in turn, as a sampler does."""
    return len(range(rank(), count, world_size()))


def own_rows(rows: Float[Tensor, "R_times_B *shape"]) -> Float[Tensor, "B *shape"]:
    """Of something for each image of all processes, what is of this one's: every R-th row, as a sampler deals them.

    It holds for several parts one behind the other too (clean images, then attacked ones), each of all processes.
    """
    return rows[rank() :: world_size()]


def averaged(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Mean over the processes; not differentiated."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gathered_rows(rows: Float[Tensor, "B K"]) -> Float[Tensor, "R_times_B K"]:
    """The rows of all processes, those of rank 0 first; every process must bring as many.

    The gradient of a row is the sum over what all processes make of it. Where each makes the same loss of all rows, the
    mean over processes that DistributedDataParallel takes is then the gradient of one process with the whole batch.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def gathered_objects(mine: Any) -> list[Any]:
    """Every process's own picklable object (tensors in main memory), in the order of ranks, in every process."""
    if world_size() == 1:
        return [mine]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, mine)
    return found


def objects_at_rank_zero(mine: Any) -> list[Any]:
    """As `gathered_objects`, but the other processes get an empty list: for what is large."""
    if world_size() == 1:
        return [mine]
    found: list[Any] = [None] * world_size() if rank() == 0 else []
    dist.gather_object(mine, found or None)
    return found
