"""ImageNet weights for a VGG16 backbone, from a file of torchvision's layout or of ssd.pytorch's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from robustdet.detection.layers import PlannedLayers
from robustdet.errors import InputError, MissingFileError
from robustdet.files import read_tensors

log = logging.getLogger(__name__)

State: TypeAlias = dict[str, Tensor]

HOW_TO_GET = """\
Get one of:
  - VGG16_Weights.IMAGENET1K_FEATURES of torchvision (vgg16_features-amdegroot-88682ab5.pth; the URL is its `.url`)
  - vgg16_reducedfc.pth, which the README of ssd.pytorch (amdegroot) links to
and name the file in `weights`, or set `weights: null` to start at random, which costs many points of AP."""


def load_imagenet(backbone: PlannedLayers, path: str | Path) -> list[str]:
    """Load a VGG16 that was trained to classify ImageNet into ``backbone``; returns the tensors that stay random.

    Understands ``features.N.*`` (torchvision; conv6 and conv7 are made of its ``classifier`` where that has finite
    values, and stay random otherwise, which is said in the log) and ``N.*`` (ssd.pytorch's vgg16_reducedfc).
    Raises FileNotFoundError, saying how to get a file, and ValueError, naming the tensors that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no backbone weights at {path}.\n{HOW_TO_GET}")
    file = {str(name): tensor for name, tensor in read_tensors(path).items() if isinstance(tensor, Tensor)}
    state = _named_as_ours(file, path)
    wanted = backbone.state_dict()
    random = [] if _is_reduced(file) else [name for name in _FULLY_CONNECTED if name in wanted and name not in state]
    require_fit(state, {name: tensor for name, tensor in wanted.items() if name not in random}, path)
    backbone.load_state_dict(state, strict=False)
    if random:
        log.warning("%s has no values for %s: they stay random", path, ", ".join(random))
    return random


_FULLY_CONNECTED = ("layers.31.weight", "layers.31.bias", "layers.33.weight", "layers.33.bias")


def _is_reduced(file: Mapping[str, Tensor]) -> bool:
    return "0.weight" in file


def _named_as_ours(file: Mapping[str, Tensor], path: Path) -> State:
    if _is_reduced(file):
        return {f"layers.{name}": tensor for name, tensor in file.items()}
    features = {f"layers.{name[9:]}": tensor for name, tensor in file.items() if name.startswith("features.")}
    if not features:
        raise InputError(
            f"{path} holds no VGG16: expected tensors named features.0.weight (torchvision) or 0.weight (ssd.pytorch), "
            f"found {sorted(file)[:3]}.\n{HOW_TO_GET}"
        )
    return features | _reduced(file)


def _reduced(file: Mapping[str, Tensor]) -> State:
    """conv6 and conv7 from fc6 and fc7 (SSD, section 3): every 4th neuron, of fc6's 7x7 every 3rd row and column."""
    names = ("classifier.0.weight", "classifier.0.bias", "classifier.3.weight", "classifier.3.bias")
    if not all(name in file and bool(file[name].isfinite().all()) for name in names):
        return {}
    fc6, fc6_bias, fc7, fc7_bias = (file[name] for name in names)
    conv6 = fc6.view(4096, 512, 7, 7)[::4, :, ::3, ::3]
    conv7 = fc7.view(4096, 4096, 1, 1)[::4, ::4]
    return dict(zip(_FULLY_CONNECTED, (conv6, fc6_bias[::4], conv7, fc7_bias[::4]), strict=True))


def require_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: Path | str) -> None:
    """Raise ValueError that names every tensor of ``state`` that is missing, left over or of another shape."""
    problems = [f"missing: {name}" for name in wanted if name not in state]
    problems += [f"left over: {name}" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        raise InputError(f"{source} does not fit this network:\n  " + "\n  ".join(problems))
