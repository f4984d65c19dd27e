"""A device that has no float64, as Apple's GPUs, for machines that have no such device.

Its tensors say that they lie on "meta", the one device beside the CPU that every build of PyTorch knows, and hold what
they are worth on the CPU. As there, float64 is refused with a TypeError, and so is an operation on tensors of both
devices, where none of them is a single number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")


class There(Tensor):
    """A tensor on that device; ``held`` is what it is worth."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        return Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor of the device, outside of it")

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **kwargs: Any) -> np.ndarray:
        raise TypeError("can't convert a tensor of the device to NumPy: copy it to the CPU first")


class WithoutFloat64(TorchDispatchMode):
    """Inside, the device exists."""

    def __torch_dispatch__(self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        theirs = [tensor for tensor in given if isinstance(tensor, There)]
        there = bool(theirs)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]) == DEVICE
            kwargs["device"] = torch.device("cpu")
        elif (
            theirs
            and any(tensor.dim() and not isinstance(tensor, There) for tensor in given)
            and "copy" not in str(func)
        ):
            raise RuntimeError(f"{func}: expected all tensors on the same device")
        plain = [tree_map(lambda leaf: leaf.held if isinstance(leaf, There) else leaf, part) for part in (args, kwargs)]
        made = func(*plain[0], **plain[1])
        return tree_map(self._placed, made) if there else made

    @staticmethod
    def _placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dtype == torch.float64:
            raise TypeError("Cannot convert to float64: the device has none")
        return There(value)
