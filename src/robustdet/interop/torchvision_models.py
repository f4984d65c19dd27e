"""torchvision's own detectors by name: Faster R-CNN, RetinaNet, FCOS, SSD300, SSDLite320; to be measured or trained."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.detection._utils import overwrite_eps

from robustdet.detection.pretrained import IMAGENET, cached_file, located
from robustdet.detection.weights import require_fit, tensors_in, without_counters
from robustdet.errors import InputError
from robustdet.interop.torchvision_api import Norms, TorchvisionDetector
from robustdet.interop.torchvision_dense import DenseDetector
from robustdet.interop.torchvision_resnets import builder_of, imagenet_weights, sibling

COCO = "coco"
DENSE = ("retinanet", "fcos", "ssd")
OF_OTHERS = ("maskrcnn", "keypointrcnn")  # their losses ask for more than boxes
WITHOUT_EPS = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")  # whose COCO_V1 was trained with batch norms' ε = 0


class TorchvisionModel(TorchvisionDetector):
    """One of torchvision's detectors, as torchvision builds it, with the settings of its post-processing.

    Those that look at every place (RetinaNet, FCOS, SSDs) are built as a `DenseModel`, which offers their scores too.

    Args:
        name: as in torchvision.models, such as "retinanet_resnet50_fpn"; or on another ResNet, "fcos_resnet18_fpn".
        weights: "coco" for torchvision's own, a file of a state dict, "imagenet" for those of the backbone alone, or
            None for random ones.
        input_size: height and width of the images it is called with, pixels; it resizes them as torchvision does.
        num_classes: C of the data at hand, where the weights do not say which classes they know.
        classes: names of the network's labels 1..C. None: those of COCO where it has torchvision's 91 outputs for them,
            else unknown.
        min_size: to which the shorter side is resized; None is torchvision's own (800, or the one size of an SSD).
        norms: what batch norms do in training (`TorchvisionDetector`).
    """

    name: str

    def __new__(cls, *_: Any, name: str = "", **__: Any) -> TorchvisionModel:
        return super().__new__(cls.kind(name))

    @classmethod
    def kind(cls, name: str) -> type[TorchvisionModel]:
        return DenseModel if name.startswith(DENSE) else cls

    def __init__(
        self,
        *,
        name: str,
        weights: str | Path | None,
        input_size: int,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        min_size: int | None = None,
        norms: Norms = "frozen",
    ) -> None:
        own = _weights_of(name)
        self._settings: dict[str, Any] = {} if min_size is None else {"min_size": min_size}
        coco = dict(enumerate(own.meta["categories"]))
        named = {label: word for label, word in coco.items() if label and word != "N/A"}
        if weights is None and num_classes is None and classes is None:
            raise InputError(f"model.name={name} has random weights and no classes: model.classes=[a,b,…] names them")
        count = len(classes) if classes is not None else num_classes
        file, of_coco = None, False
        if weights is None:
            count = num_classes or count  # of a checkpoint, whose training may have begun with a file's other classes
            network = _built(name, count or 0, self._settings)
        elif weights == IMAGENET:
            network = _on_trained_backbone(name, count or 0, self._settings)
        else:
            if weights == COCO and not _is_torchvisions(name):
                raise InputError(
                    f"model.weights=coco: torchvision has no trained {name}, expected imagenet (of the backbone), "
                    "a FILE or null"
                )
            file = located(weights, own, "model.weights", COCO)
            network, count = _loaded(name, file, own, count, self._settings)
            of_coco = count == len(coco) - 1 and classes is None
        if of_coco:
            classes, count = list(named.values()), len(named)
        super().__init__(network, count or 0, input_size, list(named) if of_coco else None, name, norms)
        self.classes, self.file = classes, file
        self.train()  # frozen norms are so from the start: a trainer leaves modules in the mode that they come in

    def learn(self, classes: Sequence[str]) -> None:
        """Every class that it knows by name keeps what the heads say of it; others begin at random."""
        numbered_alike = torch.equal(self.theirs.cpu(), torch.arange(self.num_classes + 1))
        if self.classes is None or (numbered_alike and list(self.classes) == list(classes)):
            super().learn(classes)
            return
        network = _built(self.name, len(classes), self._settings)
        with torch.device("meta"):  # without values, to see which tensors have rows of classes
            another = _built(self.name, len(classes) + 1, self._settings).state_dict()
        label = {name: int(self.theirs[place]) for place, name in enumerate(self.classes, start=1)}
        rows = {0: 0, **{ours: label[name] for ours, name in enumerate(classes, start=1) if name in label}}
        before, state = self.network.state_dict(), network.state_dict()
        for name, tensor in state.items():
            if another[name].shape == tensor.shape:
                tensor.copy_(before[name])
            else:
                _take_rows(name, tensor, before[name], len(classes) + 1, rows)
        self.network, self.classes, self.num_classes = network, list(classes), len(classes)
        self._number(None)
        self.train(self.training)


class DenseModel(DenseDetector, TorchvisionModel):
    """One with scores of every place."""


def _take_rows(name: str, mine: Tensor, theirs: Tensor, outputs: int, rows: Mapping[int, int]) -> None:
    """Copies into ``mine`` what a head with other classes says of ``rows`` (label to theirs); the others stay."""
    classes_first = ".bbox_pred." in name  # of Faster R-CNN: four numbers a class; elsewhere classes of each box
    boxes = len(mine) // outputs
    shape = (outputs, boxes) if classes_first else (boxes, outputs)
    mine, theirs = mine.unflatten(0, shape), theirs.unflatten(0, (-1, boxes) if classes_first else (boxes, -1))
    for label, other in rows.items():
        mine.select(int(not classes_first), label).copy_(theirs.select(int(not classes_first), other))


def _weights_of(name: str) -> WeightsEnum:
    """torchvision's best of this name or, for another ResNet, of its sibling, whose classes they are.

    Raises InputError, with the names that there are, where it is none.
    """
    if not _is_torchvisions(name) and builder_of(name) is None:
        raise InputError(
            f"model.name={name}: torchvision has no such detector; known: {', '.join(_known())}, and fasterrcnn, "
            "retinanet and fcos on other ResNets, such as fcos_resnet18_fpn"
        )
    return torchvision.models.get_model_weights(name if _is_torchvisions(name) else sibling(name)).DEFAULT


def _known() -> list[str]:
    return [
        one for one in torchvision.models.list_models(torchvision.models.detection) if not one.startswith(OF_OTHERS)
    ]


def _is_torchvisions(name: str) -> bool:
    return name in _known()


def _builder(name: str) -> Any:
    return torchvision.models.get_model_builder(name) if _is_torchvisions(name) else builder_of(name)


def _built(name: str, num_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    """With random weights; outputs are one more than classes, the background's."""
    if settings and name.startswith("ssd"):
        raise InputError(f"model.min_size={settings['min_size']}: {name} resizes to the one size that it has; null")
    return _builder(name)(weights=None, weights_backbone=None, num_classes=num_classes + 1, **settings)


def _on_trained_backbone(name: str, num_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    """With torchvision's ImageNet weights in the backbone. Its norms are plain ones, whatever torchvision takes."""
    builder = _builder(name)
    theirs = _is_torchvisions(name)
    own = inspect.signature(builder).parameters["weights_backbone"].default if theirs else imagenet_weights(name)
    located(IMAGENET, own, "model.weights")  # a clear error where it cannot be had; torchvision finds it in the cache
    trained = builder(weights=None, weights_backbone=own, num_classes=num_classes + 1, **settings)
    network = _built(name, num_classes, settings)
    network.load_state_dict(without_counters(trained.state_dict()), strict=False)
    return network


def _loaded(
    name: str, file: Path, own: WeightsEnum, count: int | None, settings: Mapping[str, Any]
) -> tuple[nn.Module, int]:
    """The network with the file's weights, and the number of its labels: COCO's, or ``count``.

    Raises InputError naming the tensors that do not fit.
    """
    state, of_coco = tensors_in(file), len(own.meta["categories"]) - 1
    for labels in dict.fromkeys([of_coco, count or of_coco]):
        network = _built(name, labels, settings)
        wanted = without_counters(network.state_dict())
        if all(one in state and state[one].shape == tensor.shape for one, tensor in wanted.items()):
            break
    require_fit(without_counters(state), wanted, file)
    network.load_state_dict(state, strict=False)  # but for the counters of batch norms, which nothing here reads
    if file.name == cached_file(own).name and name in WITHOUT_EPS:
        overwrite_eps(network, 0.0)
    return network, labels
