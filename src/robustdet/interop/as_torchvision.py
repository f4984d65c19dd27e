"""Our detectors with torchvision's interface: a list of images in, losses or detections out, by mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdet.errors import InputError, KindError
from robustdet.interop.batch_forms import of_one_length
from robustdet.types import Detections, Detector, HasLosses, Target


class TorchvisionInterface(nn.Module):
    """The detector itself, its parameters, buffers and modules under their own names, called as torchvision's are.

    A state dict is the detector's. As torchvision does, it stretches images to the detector's size by differentiable
    bilinear interpolation and gives boxes in each image's own pixels, cut to it. CFR samples nothing here, in either
    mode, so that the loss is a function of the images.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        object.__setattr__(self, "detector", detector)  # no module of this one, whose names would get a prefix
        for shared in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            object.__setattr__(self, shared, getattr(detector, shared))
        self.train(detector.training)

    detector: Detector

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Images [3, H, W] of any sizes, RGB in [0, 1], as a list or, of one size, a batch.

        In training mode with ``targets``, one ``{boxes [N, 4], labels [N]}`` an image, xyxy in its pixels and 1..C, it
        gives the ``classification`` and ``bbox_regression`` loss of the batch: sums over its images / its positives. In
        evaluation mode it gives each image's ``{boxes, labels, scores}``, best first.

        Raises InputError, naming image and value, for what is none of these; KindError where losses are asked of a
        detector that offers its detections alone.
        """
        for place, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
                raise InputError(f"image {place}: expected floats [3, H, W], got {image.dtype} {list(image.shape)}")
        if len(images) == 0:
            raise InputError("expected at least one image")
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch = torch.stack([_stretched(image, self.detector.input_size) for image in images])
        if not self.training:
            found = self.detector.detect(self.detector(batch))
            return [self._in_pixels(one, size) for one, size in zip(found, sizes, strict=True)]
        if not isinstance(self.detector, HasLosses):
            raise KindError(f"{type(self.detector).__name__} offers its detections alone and has no losses to train by")
        if targets is None or len(targets) != len(images):
            got = "none" if targets is None else f"{len(targets)}"
            raise InputError(f"in training mode every image has its target: got {len(images)} images, {got} targets")
        ours = [
            self._target(place, target, size) for place, (target, size) in enumerate(zip(targets, sizes, strict=True))
        ]
        losses = self.detector.losses(self.detector(batch), self.detector.assign(ours))
        return {
            "classification": losses.per_positive(losses.classification),
            "bbox_regression": losses.per_positive(losses.localization),
        }

    def train(self, mode: bool = True) -> TorchvisionInterface:
        super().train(mode)
        self.detector.training = mode
        return self

    def _target(self, place: int, given: Mapping[str, Tensor], size: tuple[int, int]) -> Target:
        """In pixels of the detector's input."""
        missing = [field for field in ("boxes", "labels") if field not in given]
        if missing:
            raise InputError(f"target {place} has no {' and no '.join(missing)}; it has {', '.join(given)}")
        boxes, labels = given["boxes"], given["labels"]
        if not of_one_length(boxes, labels):
            raise InputError(
                f"target {place}: expected boxes [N, 4] and labels [N], got {list(boxes.shape)} and "
                f"{list(labels.shape)}"
            )
        known = (labels >= 1) & (labels <= self.detector.num_classes)
        if not bool(known.all()):
            wrong = int(labels[~known][0])
            raise InputError(f"target {place}: label {wrong}, expected 1 to {self.detector.num_classes}")
        scale = _scale(size, self.detector.input_size, boxes)
        none = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        return Target(boxes.float() * scale, labels.long(), none, none, str(place), size)

    def _in_pixels(self, found: Detections, size: tuple[int, int]) -> dict[str, Tensor]:
        side = self.detector.input_size
        boxes = found.boxes.clamp(0, side)
        has_extent = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)  # others lie outside of the image
        boxes = boxes[has_extent] / _scale(size, side, boxes)
        return {"boxes": boxes, "labels": found.labels[has_extent], "scores": found.scores[has_extent]}


def _stretched(image: Tensor, side: int) -> Tensor:
    """As `robustdet.data.pixels.stretched`, but that it neither works on bytes nor stops a gradient."""
    if image.shape[1:] == (side, side):
        return image
    return F.interpolate(image[None], (side, side), mode="bilinear", align_corners=False)[0]


def _scale(size: tuple[int, int], side: int, like: Tensor) -> Tensor:
    """What boxes of an image of ``size`` (height, width) are multiplied by when it is stretched to ``side``."""
    height, width = size
    return like.new_tensor([side / width, side / height] * 2)


def torchvision_target(target: Target) -> dict[str, Any]:
    """What torchvision's detectors, and ART, are given: the objects that a loss may use, in the same pixels."""
    learnable = target.learnable
    return {"boxes": learnable.boxes, "labels": learnable.labels}
