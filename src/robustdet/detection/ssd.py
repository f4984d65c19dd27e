"""SSD: single shot multibox detector (W. Liu et al., ECCV 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.detection.backbones.backbone import Backbone
from robustdet.detection.boxes import decode, pairwise_iou
from robustdet.detection.default_boxes import DefaultBoxes
from robustdet.detection.initialisation import initialise_heads, initialise_layers, scale_first_layer
from robustdet.detection.layers import Head, L2Norm, PlannedLayers, source_sizes
from robustdet.detection.matching import match
from robustdet.detection.multibox_loss import MultiBoxLoss
from robustdet.detection.normalisation import Normalisation
from robustdet.detection.post_processing import PostProcessing
from robustdet.detection.pretrained import located
from robustdet.detection.weights import require_fit
from robustdet.errors import InputError
from robustdet.graphs import WholeGraphs
from robustdet.types import Assignment, BoxLosses, DetectionLosses, Detections, Images, RawPredictions, Targets


class SSD(WholeGraphs, nn.Module):
    """A default-box detector; satisfies :class:`robustdet.types.Detector`. Training and evaluation mode are the same.

    Args:
        num_classes: C, without the background.
        unused_classes: outputs beyond these that no object has. They share the softmax and are never detected (the
            published code's COCO head has 120).
        input_size: height and width of the images, in pixels.
        backbone, extras: the network up to its last source; ``extras`` goes on where ``backbone`` ends.
        default_boxes: for the sources of both, in order.
        l2_norm: initial length of the first source's feature vectors; None leaves that source as it is.
        head_std: standard deviation of the heads' initial weights; None draws them as SSD does.
        background_bias: initial bias of the background's logits; above 0 boxes start as background.
        weights: what the backbone starts from: "imagenet" for torchvision's own weights, or a file that its ``load``
            takes; None for random ones.
    """

    graphs = ("predictions", "losses", "localization", "box_losses")
    default_boxes: Float[Tensor, "P 4"]

    def __init__(
        self,
        *,
        num_classes: int,
        input_size: int,
        backbone: Backbone,
        extras: PlannedLayers,
        default_boxes: DefaultBoxes,
        normalisation: Normalisation,
        criterion: MultiBoxLoss,
        post_processing: PostProcessing,
        unused_classes: int = 0,
        l2_norm: float | int | None = None,
        head_std: float | None = None,
        background_bias: float | int = 0,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.input_size = input_size
        self.normalisation = normalisation
        self.backbone = backbone
        self.extras = extras
        self.criterion = criterion
        self.post_processing = post_processing

        if extras.in_channels != backbone.out_channels:
            raise InputError(
                f"extras.in_channels is {extras.in_channels}, but the backbone ends with {backbone.out_channels}"
            )
        channels = [*backbone.sources.values(), *extras.sources.values()]
        boxes_per_cell = default_boxes.boxes_per_cell
        boxes = default_boxes(input_size, source_sizes(backbone, extras, input_size))
        self.register_buffer("default_boxes", boxes, persistent=False)
        self.l2_norm = nn.Identity() if l2_norm is None else L2Norm(channels[0], l2_norm)
        self.classification_head = Head(channels, boxes_per_cell, num_classes + 1 + unused_classes)
        self.regression_head = Head(channels, boxes_per_cell, 4)
        for part in (backbone, extras):
            initialise_layers(part)
        initialise_heads(self.classification_head, self.regression_head, head_std, background_bias)
        if weights is None:
            scale_first_layer(backbone, normalisation.std)
        else:
            backbone.load(located(weights, backbone.trained, "model.weights"))
        self._range_checked = False

    def forward(self, images: Images, generator: torch.Generator | None = None) -> RawPredictions:
        """Predictions for RGB images in [0, 1]. SSD is deterministic and leaves ``generator`` alone."""
        self.check(images)
        return self.predictions(images)

    def predictions(self, images: Images) -> RawPredictions:
        """The network alone: images are not looked at."""
        return self.predict(self.features(self.normalisation(images)))

    def features(self, pixels: Images) -> list[Float[Tensor, "B _ _ _"]]:
        """The maps that predict, from normalised images."""
        x, sources = self.backbone(pixels)
        return sources + self.extras(x)[1]

    def predict(self, sources: list[Float[Tensor, "B _ _ _"]]) -> RawPredictions:
        """What the heads say of the maps of :meth:`features`."""
        sources = [self.l2_norm(sources[0]), *sources[1:]]
        return RawPredictions(self.classification_head(sources), self.regression_head(sources), self.default_boxes)

    def assign(self, targets: Targets) -> Assignment:
        """Match boxes in pixels of the input; see :func:`~.matching.match`."""
        return match(targets, self.default_boxes, self.input_size)

    def losses(self, raw: RawPredictions, assignment: Assignment) -> DetectionLosses:
        return self.criterion(raw, assignment)

    def localization(self, raw: RawPredictions, assignment: Assignment) -> Float[Tensor, "B"]:
        return self.criterion.localization(raw, assignment)

    def box_losses(self, raw: RawPredictions, assignment: Assignment) -> BoxLosses:
        return self.criterion.box_losses(raw, assignment)

    def overlaps(self, raw: RawPredictions, boxes: Float[Tensor, "B N 4"]) -> Float[Tensor, "B P N"]:
        """IoU of every predicted box with every one of ``boxes``, both xyxy in pixels of the input."""
        return pairwise_iou(decode(raw.bbox_regression, raw.default_boxes) * self.input_size, boxes)

    def detect(self, raw: RawPredictions) -> list[Detections]:
        """Detections in pixels of the input, best first."""
        return self.post_processing(raw, self.input_size, self.num_classes)

    def warm_start(self, clean: Mapping[str, Tensor]) -> None:
        """Start from the state dict of another SSD like this. ValueError names every tensor that does not fit."""
        require_fit(clean, self.state_dict(), "the clean state dict")
        self.load_state_dict(clean)

    def check(self, images: Images) -> None:
        """Raise ValueError unless images have the right size and, as far as looked at, values in [0, 1].

        Values are looked at in the first batch only: it is where 0-255 and normalised images show, and looking makes a
        GPU wait for its host.
        """
        if images.shape[1:] != (3, self.input_size, self.input_size):
            raise InputError(
                f"expected images of shape [B, 3, {self.input_size}, {self.input_size}], got {list(images.shape)}"
            )
        if self._range_checked or torch.compiler.is_compiling():
            return
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):
            raise InputError(f"expected RGB images with values in [0, 1], got [{float(low):g}, {float(high):g}]")
        self._range_checked = True
