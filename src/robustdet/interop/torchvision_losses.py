"""torchvision's own training losses, image by image, with one pass of the backbone for all of them.

A network whose class or forward pass is not torchvision's is asked for each image alone, which costs a pass each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from robustdet.modes import modes_kept

Objects: TypeAlias = Mapping[str, Tensor]
"""Of one image: ``boxes`` [N, 4], xyxy in its pixels, and the network's ``labels`` [N]."""


def losses_of_each(
    network: nn.Module, images: Sequence[Tensor], targets: Sequence[Objects], generator: torch.Generator | None
) -> list[dict[str, Tensor]]:
    """Of every image, [3, H, W] and all of one size, the network's losses by name, as if it were alone.

    But for batch norms in training mode, which see all of them together. Modes and samplers are given back as they
    were. ``generator`` draws the proposals that count; without one they are taken evenly spread.
    """
    with giving(network, losses=True), _sampling(network, generator):
        parts = cast(Any, network)
        if not any(isinstance(network, kind) and type(network).forward is kind.forward for kind in OWN):
            return [network([image], [dict(target)]) for image, target in zip(images, targets, strict=True)]
        prepared, resized = parts.transform(list(images), [dict(target) for target in targets])
        features = parts.backbone(prepared.tensors)
        features = {"0": features} if isinstance(features, Tensor) else features
        if isinstance(network, GeneralizedRCNN):
            return _of_proposals(network, prepared, features, resized)
        return _of_anchors(network, prepared, list(features.values()), resized)


OWN = (GeneralizedRCNN, RetinaNet, FCOS, SSD)


def _of_proposals(
    network: GeneralizedRCNN, images: ImageList, features: Mapping[str, Tensor], targets: list[dict[str, Tensor]]
) -> list[dict[str, Tensor]]:
    found = []
    for place, target in enumerate(targets):
        own = {level: values[place : place + 1] for level, values in features.items()}
        image = ImageList(images.tensors[place : place + 1], images.image_sizes[place : place + 1])
        proposals, of_proposals = network.rpn(image, own, [target])
        _, of_detections = network.roi_heads(own, proposals, image.image_sizes, [target])
        found.append({**of_detections, **of_proposals})
    return found


def _of_anchors(
    network: Any, images: ImageList, features: list[Tensor], targets: list[dict[str, Tensor]]
) -> list[dict[str, Tensor]]:
    outputs = network.head(features)
    found = []
    for place, (target, anchors) in enumerate(zip(targets, network.anchor_generator(images, features), strict=True)):
        own = {name: values[place : place + 1] for name, values in outputs.items()}
        more: list[Any] = []
        if isinstance(network, FCOS):
            more = [[level.shape[2] * level.shape[3] for level in features]]  # locations of each level
        elif isinstance(network, SSD):
            more = [[matches_of_ssd(network, target["boxes"], anchors)]]
        found.append(cast(Any, network).compute_loss([target], own, [anchors], *more))
    return found


def matches_of_ssd(network: SSD, boxes: Tensor, anchors: Tensor) -> Tensor:
    """The object, by its place among ``boxes`` [N, 4], that each of ``anchors`` [P, 4] answers for; below 0: none."""
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    return network.proposal_matcher(box_iou(boxes, anchors))


def stages_of(network: nn.Module) -> list[Any]:
    """Its parts that draw proposals by chance."""
    return [one for one in network.modules() if isinstance(one, RegionProposalNetwork | RoIHeads)]


@contextmanager
def giving(network: nn.Module, losses: bool) -> Iterator[None]:
    """The modules that choose between losses and detections choose these; their parts stay in their mode."""
    choosing = (network, *stages_of(network))
    with modes_kept(choosing):
        for module in choosing:
            module.training = losses
        yield


@contextmanager
def _sampling(network: nn.Module, generator: torch.Generator | None) -> Iterator[None]:
    before = [(stage, stage.fg_bg_sampler) for stage in stages_of(network)]
    try:
        for stage, own in before:
            stage.fg_bg_sampler = Sampler(own.batch_size_per_image, own.positive_fraction, generator)
        yield
    finally:
        for stage, own in before:
            stage.fg_bg_sampler = own


class Sampler:
    """In place of torchvision's ``BalancedPositiveNegativeSampler``: as many, but drawn from ``generator`` or, without
    one, evenly spread over their order. A loss whose terms are drawn anew at each look is no function of the image.
    """

    def __init__(
        self, batch_size_per_image: int, positive_fraction: float, generator: torch.Generator | None = None
    ) -> None:
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.generator = generator

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
