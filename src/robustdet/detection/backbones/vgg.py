"""VGG16 (Simonyan & Zisserman, ICLR 2015) as SSD has it: conv6 and conv7 in place of its fully connected layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torchvision.models import VGG16_Weights

from robustdet.detection.layers import PlannedLayers
from robustdet.detection.weights import State, require_fit, tensors_in
from robustdet.errors import InputError

log = logging.getLogger(__name__)

TRAINED = VGG16_Weights.IMAGENET1K_FEATURES  # trained on images of 0..255 less their mean, as SSD feeds them
HOW_TO_GET = f"""\
Take one of:
  - weights=imagenet: torchvision's {TRAINED} ({TRAINED.url}); conf/model/ssd300.yaml asks for it
  - vgg16_reducedfc.pth, which the README of ssd.pytorch (amdegroot) links to, as weights=FILE"""


class VGG16(PlannedLayers):
    """A plan whose first 13 convolutions stand where VGG16 has them: conv4_3 is layer 21."""

    trained = TRAINED

    def load(self, path: Path) -> None:
        """Take the weights of a VGG16 that was trained to classify ImageNet.

        The file has ``features.N.*`` (torchvision; conv6 and conv7 are made of its ``classifier`` where that has finite
        values, and stay random otherwise, which is said in the log) or ``N.*`` (ssd.pytorch's vgg16_reducedfc). Raises
        InputError, naming the file or the tensors that do not fit.
        """
        file = tensors_in(path)
        state = _named_as_ours(file, path)
        wanted = self.state_dict()
        random = [] if _is_reduced(file) else [one for one in _FULLY_CONNECTED if one in wanted and one not in state]
        require_fit(state, {name: tensor for name, tensor in wanted.items() if name not in random}, path)
        self.load_state_dict(state, strict=False)
        if random:
            log.warning("%s has no values for %s: they stay random", path, ", ".join(random))


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
