"""Checkpoints of others, read as ours and written as theirs. Files are read with weights-only unpickling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustdet.errors import InputError
from robustdet.files import read_tensors
from robustdet.interop.names import FROM_AUTHORS, FROM_TORCHVISION, TO_AUTHORS, Rule, rename

State: TypeAlias = dict[str, Tensor]

# COCO numbers its 80 classes 1..90 and leaves out these; torchvision's networks have an output for each number.
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_OUTPUTS = 91

OF_MODULE = "model."  # before the names of a detector in its training module
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # keys of files with more in them than weights
PREFIXES = ("module.", "_orig_mod.", OF_MODULE)  # of DataParallel, of torch.compile, of a module around


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under our names, what kind of file they came from and, where it says so, the names of labels 1..C.

    ``updates`` is how many its training has made, where it is a training's state; ``chosen`` and ``averaged`` are what
    a state of ours says of itself (`robustdet.evaluation.record.RunInfo`).
    """

    state_dict: State
    description: str
    classes: list[str] | None = None
    updates: int | None = None
    chosen: str = ""
    averaged: str = ""


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, of the authors, of ssd.pytorch or torchvision's ``ssd300_vgg16``.

    Weights inside of other things (`{'model': …, 'optimizer': …}`), and names that DataParallel or `torch.compile` has
    prefixed, are read too. Whether they fit is for the model to say: its ``load_state_dict`` and ``warm_start`` name
    every tensor that is missing, left over or of the wrong shape; one that nobody knows keeps its name until then.

    torchvision's COCO detectors have 91 outputs a box, ten of them for numbers that COCO does not use and their
    training never met: these ten are dropped. Its pixels are normalised as ``protocol=paper`` does; its default
    boxes are those of ``ssd300_coco``, in the same order, but that the 10x10 map's last row and column have their
    centres 4 pixels outside of the image, where ours have them on its border.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of tensors, or tensors of something else.
    """
    content = read_tensors(path)
    if _is_lightnings(content):
        return _lightning(content, path)
    state = _tensors(*_unwrapped(content), path)
    for first, (_, read) in DIALECTS.items():
        if first in state:
            return read(state, path)
    expected = ", ".join(f"{first} ({whose})" for first, (whose, _) in DIALECTS.items())
    raise InputError(f"{path} is no SSD: expected {expected}, found {sorted(state)[:3]}")


def to_authors(state: Mapping[str, Tensor]) -> State:
    """The same tensors under the authors' names: what their code loads."""
    return renamed(state, TO_AUTHORS)


def renamed(state: Mapping[str, Tensor], rules: list[Rule]) -> State:
    return {rename(name, rules): tensor for name, tensor in state.items()}


def _is_lightnings(content: Mapping[Any, Any]) -> bool:
    """Whether it is a training's state, which has the detector's tensors among those of the module around it."""
    state = content.get("state_dict")
    return isinstance(state, Mapping) and any(str(name).startswith(OF_MODULE) for name in state)


def _unwrapped(content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], str]:
    """The innermost mapping that others keep their tensors in, and where in the file it is."""
    place = ""
    while key := next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None):
        content, place = content[key], f"{place}[{key!r}]"
    return content, place


def _tensors(content: Mapping[Any, Any], place: str, path: Path | str) -> State:
    """Those of a state dict, without what wrappers of modules put before their names.

    Raises InputError naming what is no tensor, or not finite.
    """
    if not content:
        raise InputError(f"{path}{place} is empty, expected tensors by name")
    for name, value in content.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_complex():
            kind = f"{value.layout} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{path}{place}: {name} is a {kind}, expected a dense tensor of real numbers")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{path}{place}: {name} has values that are NaN or infinite: its training has failed")
    state = {str(name): value for name, value in content.items()}
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}  # inside, where parts are compiled


def _lightning(content: Mapping[str, Any], path: Path | str) -> Checkpoint:
    within = {name: value for name, value in content["state_dict"].items() if str(name).startswith(OF_MODULE)}
    classes = content.get("classes")
    if not (classes is None or (isinstance(classes, list) and all(isinstance(name, str) for name in classes))):
        raise InputError(f"{path}['classes'] should be a list of names, got {classes!r}")
    updates = content.get("global_step")
    description = f"a training checkpoint after {'unknown' if updates is None else updates} updates"
    said = {key: content.get(key, "") for key in ("chosen", "averaged")}
    for key, text in said.items():
        if not isinstance(text, str):
            raise InputError(f"{path}[{key!r}] should be a text, got {text!r}")
    return Checkpoint(_tensors(within, "['state_dict']", path), description, classes, updates, **said)


def _ours(content: State, path: Path | str) -> Checkpoint:
    return Checkpoint(content, "a state dict")


def _authors(content: State, path: Path | str) -> Checkpoint:
    state = renamed(content, FROM_AUTHORS)
    if content["vgg.0.weight"].ndim == 4:
        return Checkpoint(state, "an SSD of ssd.pytorch or the authors")
    cfr = any(".conv_mean." in name for name in state)
    return Checkpoint(state, f"the authors' RobustDet{' with CFR' if cfr else ''}")


def _torchvision(content: State, path: Path | str) -> Checkpoint:
    state = renamed(content, FROM_TORCHVISION)
    outputs = _outputs(state, path)
    description = f"torchvision's SSD300 with {outputs} outputs a box"
    if outputs == COCO_OUTPUTS:
        names = [name for name in state if name.startswith("classification_head.")]
        heads = {name: _used(state[name]) for name in names if state[name].shape[:1].numel() % COCO_OUTPUTS == 0}
        return Checkpoint(state | heads, f"{description}, less the {len(COCO_UNUSED_IDS)} that COCO does not use")
    return Checkpoint(state, description)


def _outputs(state: State, path: Path | str) -> int:
    """Numbers that the first heads say of every default box."""
    heads = [state.get(f"{kind}_head.layers.0.weight") for kind in ("regression", "classification")]
    rows = [0 if head is None or head.ndim == 0 else head.shape[0] for head in heads]
    if rows[0] < 4:
        raise InputError(f"{path} is no SSD of torchvision's: it has no heads")
    return rows[1] // (rows[0] // 4)


def _used(head: Tensor) -> Tensor:
    """Of a weight or bias [boxes * 91, …] the rows of the background and of the ids that COCO uses."""
    used = [label for label in range(COCO_OUTPUTS) if label not in COCO_UNUSED_IDS]
    return head.unflatten(0, (-1, COCO_OUTPUTS))[:, used].flatten(0, 1)


# Whose each dialect is and how it is read, by the first tensor, which tells it.
DIALECTS: dict[str, tuple[str, Callable[[State, Path | str], Checkpoint]]] = {
    "backbone.layers.0.weight": ("ours", _ours),
    "vgg.0.weight": ("the authors, ssd.pytorch", _authors),
    "backbone.scale_weight": ("torchvision", _torchvision),
}
