"""Files of weights: reading one, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from robustdet.errors import InputError
from robustdet.files import read_tensors

State: TypeAlias = dict[str, Tensor]


def tensors_in(path: Path) -> State:
    """Raises InputError that names the file where it holds anything but tensors by name."""
    file = read_tensors(path)
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in file.items()):
        raise InputError(f"{path} is no file of weights: expected tensors by name")
    return dict(file)


def without_counters(state: Mapping[str, Tensor]) -> State:
    """All but how many batches a norm has seen: nothing depends on it, and older files lack it."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}


def require_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: Path | str) -> None:
    """Raise InputError that names every tensor of ``state`` that is missing, left over or of another shape."""
    problems = [f"missing: {name}" for name in wanted if name not in state]
    problems += [f"left over: {name}" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        raise InputError(f"{source} does not fit this network:\n  " + "\n  ".join(problems))
