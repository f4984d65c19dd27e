"""ImageNet weights for a VGG16 backbone, from a file of torchvision's layout or of ssd.pytorch's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from robustdet.detection.layers import PlannedLayers
from robustdet.detection.pretrained import located
from robustdet.errors import InputError
from robustdet.files import read_tensors

log = logging.getLogger(__name__)

State: TypeAlias = dict[str, Tensor]

VGG16 = VGG16_Weights.IMAGENET1K_FEATURES  # trained on images of 0..255 less their mean, as SSD feeds them
HOW_TO_GET = f"""\
Take one of:
  - weights=imagenet: torchvision's {VGG16} ({VGG16.url}); conf/model/ssd300.yaml asks for it
  - vgg16_reducedfc.pth, which the README of ssd.pytorch (amdegroot) links to, as weights=FILE"""


def load_imagenet(backbone: PlannedLayers, weights: str | Path) -> list[str]:
    """Load a VGG16 that was trained to classify ImageNet into ``backbone``; returns the tensors that stay random.

    ``weights`` is "imagenet" for torchvision's own, or a file with ``features.N.*`` (torchvision; conv6 and conv7 are
    made of its ``classifier`` where that has finite values, and stay random otherwise, which is said in the log) or
    ``N.*`` (ssd.pytorch's vgg16_reducedfc). Raises MissingFileError, saying how to get a file, and InputError, naming
    the file or the tensors that do not fit.
    """
    if not is_vgg16(backbone):
        raise InputError(f"model.weights={weights} is for a VGG16, and this backbone is none: set model.weights=null")
    path = located(weights, VGG16, "model.weights")
    file = tensors_in(path)
    state = _named_as_ours(file, path)
    wanted = backbone.state_dict()
    random = [] if _is_reduced(file) else [name for name in _FULLY_CONNECTED if name in wanted and name not in state]
    require_fit(state, {name: tensor for name, tensor in wanted.items() if name not in random}, path)
    backbone.load_state_dict(state, strict=False)
    if random:
        log.warning("%s has no values for %s: they stay random", path, ", ".join(random))
    return random


def is_vgg16(backbone: nn.Module) -> bool:
    """Whether the last of its 13 convolutions is where VGG16 has it."""
    last = backbone.state_dict().get("layers.28.weight")
    return last is not None and last.shape == (512, 512, 3, 3)


def tensors_in(path: Path) -> State:
    """Raises InputError that names the file where it holds anything but tensors by name."""
    file = read_tensors(path)
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in file.items()):
        raise InputError(f"{path} is no file of weights: expected tensors by name")
    return dict(file)


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
