"""A detector with torchvision's interface: a list of images, and losses when targets are given.

Its own training loss is what an attack climbs, image by image. torchvision gives losses in training mode and detections
in evaluation mode; what is in the way of an attack there (batch norms that learn, sampling by chance) is in its parts,
not in that choice, so the choice alone is switched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from robustdet.detection.matching import check_boxes
from robustdet.errors import InputError
from robustdet.interop.foreign import ForeignDetector
from robustdet.types import DetectionLosses, Detections, Images, Targets, moved


@dataclass(frozen=True)
class Asked:
    """Images that the network has yet to look at: its losses and its detections are two passes of it."""

    images: Images
    generator: torch.Generator | None


class TorchvisionDetector(ForeignDetector):
    """Satisfies `robustdet.types.HasLosses`; ``network`` resizes and normalises the images itself.

    Classification is every loss whose name does not speak of boxes: the background of proposals too. All are divided
    already, by what the network's training divides them by, so that an image with objects counts as one positive. Batch
    norms keep their statistics in training, as those of torchvision's trained backbones do.

    Args:
        network: called with a list of [3, H, W] in [0, 1]; in evaluation mode it gives a list of
            ``{boxes, labels, scores}``, in training mode, with such targets, its losses by name.
        ids: the network's label for each of ours, 1..C; None counts from 1 as we do.
        input_size: height and width of the images it is called with, pixels.
    """

    theirs: Tensor
    ours: Tensor

    def __init__(
        self, network: nn.Module, num_classes: int, input_size: int, ids: Sequence[int] | None = None, name: str = ""
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name or type(network).__name__
        self.num_classes, self.input_size = num_classes, input_size
        ids = range(1, num_classes + 1) if ids is None else ids
        theirs = torch.tensor([0, *ids])
        ours = torch.zeros(int(theirs.max()) + 1, dtype=torch.long).scatter(0, theirs, torch.arange(len(theirs)))
        self.register_buffer("theirs", theirs, persistent=False)
        self.register_buffer("ours", ours, persistent=False)  # 0 for ids that no class has
        stages = [one for one in network.modules() if isinstance(one, RegionProposalNetwork | RoIHeads)]
        self._choosing = [network, *stages]
        self._samplers = [
            Sampler(one.fg_bg_sampler.batch_size_per_image, one.fg_bg_sampler.positive_fraction) for one in stages
        ]
        for one, sampler in zip(stages, self._samplers, strict=True):
            one.fg_bg_sampler = sampler

    def forward(self, images: Images, generator: torch.Generator | None = None) -> Asked:
        if images.shape[1:] != (3, self.input_size, self.input_size):
            raise InputError(
                f"expected images of shape [B, 3, {self.input_size}, {self.input_size}], got {list(images.shape)}"
            )
        return Asked(images, generator)

    def assign(self, targets: Targets) -> list[dict[str, Tensor]]:
        check_boxes(targets)
        device = self.theirs.device
        return [
            {"boxes": moved(one.boxes, device), "labels": self.theirs[moved(one.labels, device)]}
            for one in (each.learnable for each in targets)
        ]

    def losses(self, raw: Asked, assignment: list[dict[str, Tensor]]) -> DetectionLosses:
        with self._giving(losses=True), _drawing(self._samplers, raw.generator):
            of_images = [self.network([image], [dict(one)]) for image, one in zip(raw.images, assignment, strict=True)]
        by_task: dict[bool, list[Tensor]] = {True: [], False: []}
        for parts in of_images:
            for of_boxes, losses in by_task.items():
                losses.append(sum(value for name, value in parts.items() if ("box" in name) == of_boxes))
        objects = torch.tensor([len(one["labels"]) > 0 for one in assignment], device=raw.images.device)
        return DetectionLosses(torch.stack(by_task[False]), torch.stack(by_task[True]), objects.long())

    def detect(self, raw: Asked) -> list[Detections]:
        with self._giving(losses=False):
            found = self.network(list(raw.images))
        return [self._named_as_ours(one["boxes"], one["scores"], one["labels"]) for one in found]

    def train(self, mode: bool = True) -> TorchvisionDetector:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm | GeneralizedRCNNTransform):  # the latter would draw a size
                module.training = False
        return self

    def _named_as_ours(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """Best first, without labels that no class has."""
        known = labels < len(self.ours)
        ours = torch.where(known, self.ours[labels.where(known, 0)], 0)
        order = scores.argsort(descending=True, stable=True)
        order = order[ours[order] > 0]
        return Detections(boxes[order], scores[order], ours[order])

    @contextmanager
    def _giving(self, losses: bool) -> Iterator[None]:
        """The modules that choose between losses and detections choose these; their parts stay in their mode."""
        before = [(module, module.training) for module in self._choosing]
        try:
            for module in self._choosing:
                module.training = losses
            yield
        finally:
            for module, training in before:
                module.training = training


class Sampler:
    """In place of torchvision's ``BalancedPositiveNegativeSampler``: as many, but drawn from ``generator`` or, without
    one, evenly spread over their order. A loss whose terms are drawn anew at each look is no function of the image.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.generator: torch.Generator | None = None

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the positives (label ≥ 1) and negatives (0) that count, image by image."""
        positives, negatives = [], []
        for one in labels:
            most = int(self.batch_size_per_image * self.positive_fraction)
            positives.append(self._chosen(one >= 1, most))
            negatives.append(self._chosen(one == 0, self.batch_size_per_image - int(positives[-1].sum())))
        return positives, negatives

    def _chosen(self, eligible: Tensor, most: int) -> Tensor:
        places = eligible.nonzero().squeeze(1)
        if len(places) > most:
            if self.generator is None:
                order = torch.arange(most, device=places.device) * len(places) // most
            else:
                order = torch.randperm(len(places), generator=self.generator)[:most].to(places.device)
            places = places[order]
        return torch.zeros_like(eligible).scatter(0, places, True).to(torch.uint8)


@contextmanager
def _drawing(samplers: Sequence[Sampler], generator: torch.Generator | None) -> Iterator[None]:
    for sampler in samplers:
        sampler.generator = generator
    try:
        yield
    finally:
        for sampler in samplers:
            sampler.generator = None
