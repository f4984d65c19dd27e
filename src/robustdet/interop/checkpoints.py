"""Checkpoints of others, read as ours and written as theirs. Files are read with weights-only unpickling."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustdet.errors import InputError, MissingFileError
from robustdet.interop.names import FROM_AUTHORS, FROM_TORCHVISION, TO_AUTHORS, Rule, rename

State: TypeAlias = dict[str, Tensor]

# COCO numbers its 80 classes 1..90 and leaves out these; torchvision's networks have an output for each number.
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_OUTPUTS = 91


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under our names, what kind of file they came from and, where it says so, the names of labels 1..C."""

    state_dict: State
    description: str
    classes: list[str] | None = None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, of the authors, of ssd.pytorch or torchvision's ``ssd300_vgg16``.

    Whether they fit is for the model to say: its ``load_state_dict`` and ``warm_start`` name every tensor that is
    missing, left over or of the wrong shape; a tensor that nobody knows keeps its name until then.

    torchvision's COCO detectors have 91 outputs a box, ten of them for numbers that COCO does not use and their
    training never met: these ten are dropped. Its pixels are normalised as ``protocol=paper`` does; its default
    boxes are those of ``ssd300_coco``, in the same order, but that the 10x10 map's last row and column have their
    centres 4 pixels outside of the image, where ours have them on its border.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of tensors, or tensors of something else.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} is no checkpoint that is safe to read (tensors and plain values): {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected tensors by name")
    for belongs, read in DIALECTS:
        if belongs(content):
            return read(content)
    raise InputError(
        f"{path} is no SSD: expected backbone.layers.0.weight (ours), vgg.0.weight (the authors, ssd.pytorch) or "
        f"backbone.scale_weight (torchvision), found {sorted(map(str, content))[:3]}"
    )


def to_authors(state: Mapping[str, Tensor]) -> State:
    """The same tensors under the authors' names: what their code loads."""
    return renamed(state, TO_AUTHORS)


def renamed(state: Mapping[str, Tensor], rules: list[Rule]) -> State:
    return {rename(name, rules): tensor for name, tensor in state.items()}


def _lightning(content: Mapping[str, Any]) -> Checkpoint:
    state = {name[6:]: tensor for name, tensor in content["state_dict"].items() if name.startswith("model.")}
    description = f"a training checkpoint after {content.get('global_step', 'unknown')} updates"
    return Checkpoint(state, description, content.get("classes"))


def _ours(content: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(dict(content), "a state dict")


def _authors(content: Mapping[str, Any]) -> Checkpoint:
    state = renamed(content, FROM_AUTHORS)
    if content["vgg.0.weight"].ndim == 4:
        return Checkpoint(state, "an SSD of ssd.pytorch or the authors")
    cfr = any(".conv_mean." in name for name in state)
    return Checkpoint(state, f"the authors' RobustDet{' with CFR' if cfr else ''}")


def _torchvision(content: Mapping[str, Any]) -> Checkpoint:
    state = renamed(content, FROM_TORCHVISION)
    boxes = state["regression_head.layers.0.weight"].shape[0] // 4
    outputs = state["classification_head.layers.0.weight"].shape[0] // boxes
    description = f"torchvision's SSD300 with {outputs} outputs a box"
    if outputs == COCO_OUTPUTS:
        heads = {name: _used(tensor) for name, tensor in state.items() if name.startswith("classification_head.")}
        return Checkpoint(state | heads, f"{description}, less the {len(COCO_UNUSED_IDS)} that COCO does not use")
    return Checkpoint(state, description)


def _used(head: Tensor) -> Tensor:
    """Of a weight or bias [boxes * 91, …] the rows of the background and of the ids that COCO uses."""
    used = [label for label in range(COCO_OUTPUTS) if label not in COCO_UNUSED_IDS]
    return head.unflatten(0, (-1, COCO_OUTPUTS))[:, used].flatten(0, 1)


DIALECTS: list[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Checkpoint]]] = [
    (lambda content: "state_dict" in content, _lightning),
    (lambda content: "backbone.layers.0.weight" in content, _ours),
    (lambda content: "vgg.0.weight" in content, _authors),
    (lambda content: "backbone.scale_weight" in content, _torchvision),
]
