"""A detector with torchvision's interface: a list of images, and losses when targets are given.

Its own training loss is what an attack climbs, image by image. torchvision gives losses in training mode and detections
in evaluation mode; what is in the way of an attack there (batch norms that learn, sampling by chance) is in its parts,
not in that choice, so the choice alone is switched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from robustdet.detection.matching import check_boxes
from robustdet.detection.weights import require_fit
from robustdet.errors import InputError
from robustdet.interop.foreign import ForeignDetector
from robustdet.interop.torchvision_losses import giving, losses_of_each
from robustdet.types import DetectionLosses, Detections, Images, Targets, moved

Norms: TypeAlias = Literal["frozen", "learning"]


@dataclass(frozen=True)
class Asked:
    """Images that the network has yet to look at: its losses and its detections are two passes of it."""

    images: Images
    generator: torch.Generator | None


class TorchvisionDetector(ForeignDetector):
    """Satisfies `robustdet.types.HasLosses`; ``network`` resizes and normalises the images itself.

    Classification is every loss whose name does not speak of boxes: the background of proposals too. All are divided
    already, by what the network's training divides them by, so that an image with objects counts as one positive.

    Args:
        network: called with a list of [3, H, W] in [0, 1]; in evaluation mode it gives a list of
            ``{boxes, labels, scores}``, in training mode, with such targets, its losses by name.
        ids: the network's label for each of ours, 1..C; None counts from 1 as we do.
        input_size: height and width of the images it is called with, pixels.
        norms: what batch norms do in training mode. "frozen": their statistics stay, as those of torchvision's trained
            backbones do; "learning": they take the batch's, which a network from random weights needs.
    """

    theirs: Tensor
    ours: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        input_size: int,
        ids: Sequence[int] | None = None,
        name: str = "",
        norms: Norms = "frozen",
    ) -> None:
        super().__init__()
        if norms not in get_args(Norms):
            raise InputError(f"model.norms={norms}: expected one of {', '.join(get_args(Norms))}")
        self.network, self.norms = network, norms
        self.name = name or type(network).__name__
        self.num_classes, self.input_size = num_classes, input_size
        self._number(ids)

    def _number(self, ids: Sequence[int] | None) -> None:
        """Says whose label is whose, where the network lies."""
        ids = range(1, self.num_classes + 1) if ids is None else ids
        theirs = torch.tensor([0, *ids])
        ours = torch.zeros(int(theirs.max()) + 1, dtype=torch.long).scatter(0, theirs, torch.arange(len(theirs)))
        device = next((one.device for one in self.network.parameters()), None)
        self.register_buffer("theirs", theirs.to(device), persistent=False)
        self.register_buffer("ours", ours.to(device), persistent=False)  # 0 for ids that no class has

    def forward(self, images: Images, generator: torch.Generator | None = None) -> Asked:
        self.require_size(images)
        return Asked(images, generator)

    def require_size(self, images: Images) -> None:
        """Raises InputError where images are not as large as ``input_size`` says."""
        if images.shape[1:] != (3, self.input_size, self.input_size):
            raise InputError(
                f"expected images of shape [B, 3, {self.input_size}, {self.input_size}], got {list(images.shape)}"
            )

    def assign(self, targets: Targets) -> list[dict[str, Tensor]]:
        check_boxes(targets)
        device = self.theirs.device
        return [
            {"boxes": moved(one.boxes, device), "labels": self._to_theirs(moved(one.labels, device))}
            for one in (each.learnable for each in targets)
        ]

    def losses(self, raw: Asked, assignment: list[dict[str, Tensor]]) -> DetectionLosses:
        return summed(losses_of_each(self.network, list(raw.images), assignment, raw.generator), assignment)

    def detect(self, raw: Asked) -> list[Detections]:
        with giving(self.network, losses=False):
            found = self.network(list(raw.images))
        return [self._named_as_ours(one["boxes"], one["scores"], one["labels"]) for one in found]

    def train(self, mode: bool = True) -> TorchvisionDetector:
        super().train(mode)
        still = (GeneralizedRCNNTransform, *([_BatchNorm] if self.norms == "frozen" else []))  # the first draws a size
        for module in self.modules():
            if isinstance(module, still):
                module.training = False
        return self

    def warm_start(self, clean: Mapping[str, Tensor]) -> None:
        """Start from the state dict of another like this. InputError names every tensor that does not fit."""
        require_fit(clean, self.state_dict(), "the clean state dict")
        self.load_state_dict(clean)

    def _to_theirs(self, labels: Tensor) -> Tensor:
        return self.theirs[labels]

    def _named_as_ours(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """Best first, without labels that no class has."""
        known = labels < len(self.ours)
        ours = torch.where(known, self.ours[labels.where(known, 0)], 0)
        order = scores.argsort(descending=True, stable=True)
        order = order[ours[order] > 0]
        return Detections(boxes[order], scores[order], ours[order])


def summed(of_images: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> DetectionLosses:
    """The losses by name of each image, put together as `TorchvisionDetector` says."""
    of_boxes, others = (torch.stack([_sum_of(parts, boxes) for parts in of_images]) for boxes in (True, False))
    objects = torch.tensor([len(one["labels"]) > 0 for one in targets], device=others.device)
    return DetectionLosses(others, of_boxes, objects.long())


def _sum_of(losses: Mapping[str, Tensor], of_boxes: bool) -> Tensor:
    return torch.stack([value for name, value in losses.items() if ("box" in name) == of_boxes]).sum()
