"""A device that computes nothing and counts everything: PyTorch's meta device stands in for a GPU.

The host's tensors are real; what lies on the device has a shape and no values. Whoever asks the device for a value is
counted as waiting for it, and is given one: of what may be true it is true, every element is chosen, evenly where it is
counted, and other numbers are 0.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustdet.types import Batch

DEVICE = torch.device("meta")
aten = torch.ops.aten
CHOICES = {aten.nonzero, aten.masked_select}  # their results are as long as their input says
DRAWS = {aten.rand, aten.randn, aten.randint, aten.randperm, aten.bernoulli, aten.uniform_, aten.normal_, aten.random_}
AUTOCAST = torch.autocast


@dataclass
class Counts:
    """``waits`` of the host for the device, ``uploads`` from the host to it, and operations ``launched`` on it.

    ``drawn`` is how many random numbers the host drew; ``where`` says who waited or uploaded.
    """

    waits: int = 0
    uploads: int = 0
    launched: int = 0
    drawn: int = 0
    chosen: int = 0  # elements that a choice chose last
    where: Counter[str] = field(default_factory=Counter)

    def note(self, what: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        frames = [frame for frame in traceback.extract_stack() if "/robustdet/" in frame.filename]
        place = f"{frames[-1].filename.rpartition('/robustdet/')[2]}:{frames[-1].lineno}" if frames else "elsewhere"
        self.where[f"{what} {place}"] += 1


@contextmanager
def counted() -> Iterator[Counts]:
    """Counts what is done inside."""
    counts = Counts()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "autocast", _autocast))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(_Values(counts))
        stack.enter_context(_Operations(counts))
        yield counts


def on_device(model: nn.Module) -> nn.Module:
    """``model`` there, images of which it has seen before."""
    model = model.to(DEVICE)
    if hasattr(model, "_range_checked"):
        model._range_checked = True
    return model


def batch_on_device(batch: Batch) -> Batch:
    return batch.to(DEVICE)


def is_there(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.device == DEVICE


class _Operations(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there, packet = any(map(is_there, tensors)), func.overloadpacket
        if packet is aten._local_scalar_dense and there:
            self.counts.note("waits")
            return True if args[0].dtype == torch.bool else 0
        if packet is aten.equal and there:
            self.counts.note("waits")
            return True
        if packet in CHOICES and there:
            self.counts.note("waits")
            size = self.counts.chosen = args[0].numel() if args[0].ndim else 1
            shape = (size, args[0].ndim) if packet is aten.nonzero else (size,)
            return args[0].new_empty(shape, dtype=torch.long if packet is aten.nonzero else args[0].dtype)
        if func is torch.ops.torchvision.nms.default and there:
            self.counts.note("waits")
            return torch.arange(len(args[0]), device=DEVICE)
        if packet in (aten.index, aten.index_put, aten.index_put_) and there:
            return self._indexed(func, args, kwargs)
        if packet is aten._to_copy and there and kwargs.get("device", DEVICE) != DEVICE:
            self.counts.note("waits")
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype", args[0].dtype))
        if packet is aten.copy_ and is_there(args[0]) != is_there(args[1]):
            self.counts.note("uploads" if is_there(args[0]) else "waits")
            return args[0]
        result = func(*args, **kwargs)
        self._count(func, tensors, result)
        return result

    def _indexed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """By masks that lie on the device: the host has to know how much they choose. By numbers of the host's: these
        travel."""
        whole, places = args[0], []
        for index in args[1]:
            if isinstance(index, Tensor) and not is_there(index) and index.ndim:
                self.counts.note("uploads")
                index = index.to(DEVICE)
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                if not (func.overloadpacket is not aten.index and args[2].ndim == 0):
                    self.counts.note("waits")
                places += list(torch.zeros(index.ndim, index.numel(), dtype=torch.long, device=DEVICE))
            else:
                places.append(index)
        self.counts.launched += 1
        return func(whole, places, *args[2:], **kwargs)

    def _count(self, func: Any, tensors: list[Tensor], result: Any) -> None:
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        there = any(map(is_there, made))
        if func.overloadpacket in DRAWS and not there:
            self.counts.drawn += sum(leaf.numel() for leaf in made)
        if func.overloadpacket is aten._to_copy and there and not any(map(is_there, tensors)):
            self.counts.note("uploads")
        elif there and not _looks(func):
            if any(not is_there(tensor) and tensor.ndim for tensor in tensors):
                raise RuntimeError(f"{func} mixes tensors of the host with some of the device")
            self.counts.launched += 1


def _looks(func: Any) -> bool:
    """Whether an operation only looks at memory in another way, or asks for some."""
    if func.overloadpacket in (aten.detach, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty):
        return True
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


class _Values(TorchFunctionMode):
    """What PyTorch reads without an operation."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy) and is_there(args[0]):
            self.counts.note("waits")
            values = torch.zeros(args[0].shape, dtype=args[0].dtype)
            if values.ndim == 1 and values.dtype == torch.long:
                values += self.counts.chosen // len(values)
            return values.tolist() if func is Tensor.tolist else values.numpy()
        return func(*args, **(kwargs or {}))


def _autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
    return nullcontext() if device_type == DEVICE.type else AUTOCAST(device_type, *args, **kwargs)


class _Generator(torch.Generator):
    """Draws on the device have none there."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu" if torch.device(device) == DEVICE else device)
