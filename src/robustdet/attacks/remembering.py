"""What was worked out of a tensor, not to be worked out again: an attack's every step asks of the same clean images."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class Latest(Generic[Value]):
    """The latest value alone, as long as its tensor lives and nobody writes into it."""

    def __init__(self) -> None:
        self._of: weakref.ref[Tensor] | None = None
        self._key: Any = None
        self._value: Value | None = None

    def of(self, tensor: Tensor, key: Hashable, make: Callable[[], Value]) -> Value:
        """What ``make`` gives; it is not asked where it was for this tensor and ``key`` the last time."""
        if tensor.is_inference() or torch.compiler.is_compiling():  # writes into it are not counted
            return make()
        known = self._of is not None and self._of() is tensor and self._key == (tensor._version, key)
        if not known:
            value = make()
            self._of, self._key, self._value = weakref.ref(tensor, self._forget), (tensor._version, key), value
            return value
        return self._value  # type: ignore[return-value]

    def _forget(self, gone: weakref.ref[Tensor]) -> None:
        if self._of is gone:
            self._of = self._key = self._value = None
