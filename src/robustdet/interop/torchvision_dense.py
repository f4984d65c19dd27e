"""torchvision's RetinaNet, FCOS and SSDs with what they say of every place: its scores, its box, its object.

Faster R-CNN has no such places. Its proposals are another set for every image, chosen by suppression, and change from
step to step: no place of one look is a place of the next, and what is no proposal has no score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import (
    clip_boxes_to_image,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

from robustdet.detection.boxes import pairwise_iou
from robustdet.errors import KindError
from robustdet.interop.torchvision_api import Asked, TorchvisionDetector, summed
from robustdet.interop.torchvision_losses import matches_of_ssd
from robustdet.modes import modes_kept
from robustdet.types import Answers, BoxLosses, DetectionLosses, Detections, Images, Targets

SURE = 1e-6  # of a score as near to 1 as this, the log-probability of none stays finite
IOU_LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


@dataclass(frozen=True)
class Frame:
    """What is the same for all images of one size: where places are, xyxy in pixels of what the network sees, how many
    each level of features has, and the height and width of the resized image in it.
    """

    anchors: Float[Tensor, "P 4"]
    levels: tuple[int, ...]
    inside: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Places(Asked):
    """What the heads say, as torchvision has it, of every place. A `robustdet.types.ScoredPredictions`.

    ``theirs`` are the network's outputs for background and classes 1..C.
    """

    cls_logits: Float[Tensor, "B P outputs"]
    bbox_regression: Float[Tensor, "B P 4"]
    centerness: Float[Tensor, "B P 1"] | None  # FCOS's
    frame: Frame
    theirs: Int[Tensor, "C_plus_1"]
    exclusive: bool

    @property
    def log_probabilities(self) -> Float[Tensor, "B P C_plus_1"]:
        """Of a softmax (SSD) as it is. RetinaNet's and FCOS's scores are sigmoids, FCOS's geometric means with the
        centerness; that of none of them is Σ log(1 - score).
        """
        if self.exclusive:
            return self.cls_logits.log_softmax(dim=-1)[..., self.theirs]
        logits = self.cls_logits[..., self.theirs[1:]]
        if self.centerness is None:
            said, none = F.logsigmoid(logits), F.logsigmoid(-logits)
        else:
            said = (F.logsigmoid(logits) + F.logsigmoid(self.centerness)) / 2
            none = torch.log1p(-said.exp().clamp(max=1 - SURE))
        return torch.cat([none.sum(dim=-1, keepdim=True), said], dim=-1)

    @property
    def outputs(self) -> dict[str, Tensor]:
        """As the network's own head gives them."""
        found = {"cls_logits": self.cls_logits, "bbox_regression": self.bbox_regression}
        return found if self.centerness is None else {**found, "bbox_ctrness": self.centerness}

    def of_one(self, place: int) -> dict[str, Tensor]:
        """Those of one image, as a batch of one."""
        return {name: values[place : place + 1] for name, values in self.outputs.items()}


@dataclass(frozen=True)
class Matched(Answers):
    """Also of each image its objects as the network's losses ask for them: ``boxes`` in pixels of what it sees, its own
    ``labels``, and which of them each place is ``matched`` with: below 0 none, -2 of RetinaNet counts for nothing.
    """

    theirs: list[dict[str, Tensor]]
    matched: list[Int[Tensor, "P"]]


class DenseDetector(TorchvisionDetector):
    """Satisfies `robustdet.types.HasScores`; ``network`` is torchvision's RetinaNet, FCOS or SSD.

    One pass of the network has its losses, its detections and its scores. Arguments are those of `TorchvisionDetector`;
    a network of another class is a KindError.
    """

    network: Any
    _frame: Frame | None = None

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        if not isinstance(self.network, RetinaNet | FCOS | SSD):
            raise KindError(
                f"{self.name}: expected torchvision's RetinaNet, FCOS or SSD, got {type(self.network).__name__}, of "
                "which raw scores are not known: TorchvisionDetector takes it"
            )

    def forward(self, images: Images, generator: torch.Generator | None = None) -> Places:
        self.require_size(images)
        return Places(images, generator, **self.said(self.maps(images)))

    def maps(self, images: Images) -> list[Float[Tensor, "B _ _ _"]]:
        """The backbone's, that the heads look at."""
        prepared, _ = self.network.transform(list(images))
        return in_order(self.network.backbone(prepared.tensors))

    def said(self, maps: list[Float[Tensor, "B _ _ _"]]) -> dict[str, Any]:
        """The fields of `Places` that the heads fill."""
        outputs = self.network.head(maps)
        return {
            "cls_logits": outputs["cls_logits"],
            "bbox_regression": outputs["bbox_regression"],
            "centerness": outputs.get("bbox_ctrness"),
            "frame": self.frame,
            "theirs": self.theirs,
            "exclusive": isinstance(self.network, SSD),
        }

    @property
    def frame(self) -> Frame:
        """Found once, by a look at an empty image."""
        weight = next(self.network.parameters())
        known = self._frame
        if known is None or (known.anchors.device, known.anchors.dtype) != (weight.device, weight.dtype):
            blank = torch.zeros(1, 3, self.input_size, self.input_size, device=weight.device, dtype=weight.dtype)
            known = self._frame = self._framed(blank)
        return known

    def _framed(self, blank: Images) -> Frame:
        with (
            modes_kept(self.modules()),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(blank.device.type, enabled=False),
        ):
            self.eval()
            maps = self.maps(blank)
            prepared, _ = self.network.transform(list(blank))
            (anchors,) = self.network.anchor_generator(prepared, maps)
        cells = [one.shape[2] * one.shape[3] for one in maps]
        each = self.network.anchor_generator.num_anchors_per_location()
        height, width = prepared.image_sizes[0]
        levels = tuple(count * own for count, own in zip(cells, each, strict=True))
        return Frame(anchors, levels, (height, width))

    def assign(self, targets: Targets) -> Matched:  # type: ignore[override]
        frame, theirs = self.frame, super().assign(targets)
        for one in theirs:
            one["boxes"] = resize_boxes(one["boxes"].to(frame.anchors), self._whole, frame.inside)
        matched = [matches(self.network, one, frame) for one in theirs]
        objects = torch.stack(matched).clamp(min=-1)
        labels = [
            F.pad(one["labels"], (1, 0))[own + 1] for one, own in zip(theirs, objects, strict=True)
        ]  # 0 in front for what answers for none
        return Matched(self.ours[torch.stack(labels)], objects, theirs, matched)

    def losses(self, raw: Places, assignment: Matched) -> DetectionLosses:  # type: ignore[override]
        given = zip(assignment.theirs, assignment.matched, strict=True)
        anchors, criterion = [raw.frame.anchors], self.network if isinstance(self.network, SSD) else self.network.head
        of_images = [
            criterion.compute_loss([target], raw.of_one(place), anchors, [matched])
            for place, (target, matched) in enumerate(given)
        ]
        return summed(of_images, assignment.theirs)

    def localization(self, raw: Places, assignment: Matched) -> Float[Tensor, "B"]:
        return self.losses(raw, assignment).localization

    def box_losses(self, raw: Places, assignment: Matched) -> BoxLosses:
        labels, positive = assignment.labels, assignment.labels > 0
        said = raw.log_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        anchors = raw.frame.anchors.expand(*labels.shape, 4)[positive]
        of_images = zip(assignment.theirs, assignment.objects, positive, strict=True)
        objects = torch.cat([one["boxes"][owner[own]] for one, owner, own in of_images])
        each = self._apart(raw.bbox_regression[positive], anchors, objects)
        return BoxLosses(-said, torch.zeros_like(said).masked_scatter(positive, each.to(said)))

    def overlaps(self, raw: Places, boxes: Float[Tensor, "B N 4"]) -> Float[Tensor, "B P N"]:
        return pairwise_iou(self.boxes(raw), boxes)

    def boxes(self, raw: Places) -> Float[Tensor, "B P 4"]:
        """Where each place says that its object is: xyxy, pixels of the input, cut to it as detections are."""
        count = len(raw.bbox_regression)
        decoded = self._decoded(raw.bbox_regression.flatten(0, 1), raw.frame.anchors.repeat(count, 1))
        inside = clip_boxes_to_image(decoded, raw.frame.inside)
        return resize_boxes(inside, raw.frame.inside, self._whole).unflatten(0, (count, -1))

    def detect(self, raw: Places) -> list[Detections]:  # type: ignore[override]
        frame, count = raw.frame, len(raw.images)
        outputs: Any = raw.outputs
        anchors: Any = frame.anchors
        if not isinstance(self.network, SSD):  # which does not choose level by level
            outputs = {name: list(values.split(frame.levels, dim=1)) for name, values in outputs.items()}
            anchors = list(anchors.split(frame.levels))
        found = self.network.postprocess_detections(outputs, [anchors] * count, [frame.inside] * count)
        found = self.network.transform.postprocess(found, [frame.inside] * count, [self._whole] * count)
        return [self._named_as_ours(one["boxes"], one["scores"], one["labels"]) for one in found]

    @property
    def _whole(self) -> tuple[int, int]:
        return self.input_size, self.input_size

    def _decoded(self, regression: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        coder = self.network.box_coder
        return (coder.decode if isinstance(self.network, FCOS) else coder.decode_single)(regression, anchors)

    def _apart(
        self, regression: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"], objects: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "n"]:
        """What the network's regression loss has of each box, before it sums them."""
        network = self.network
        kind = "smooth_l1" if isinstance(network, SSD) else "giou"
        if isinstance(network, RetinaNet):
            kind = network.head.regression_head._loss_type
        if kind in IOU_LOSSES:
            return IOU_LOSSES[kind](self._decoded(regression, anchors), objects)
        measure = F.smooth_l1_loss if kind == "smooth_l1" else F.l1_loss
        encoded = network.box_coder.encode_single(objects, anchors)
        return measure(regression, encoded, reduction="none").sum(dim=1)


def in_order(features: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
    """A backbone's maps, which it gives by name where it has several."""
    return [features] if isinstance(features, Tensor) else list(features.values())


def matches(network: Any, objects: Mapping[str, Tensor], frame: Frame) -> Int[Tensor, "P"]:
    """The object of an image that each place answers for, as torchvision finds it: below 0 there is none."""
    if isinstance(network, SSD):
        return matches_of_ssd(network, objects["boxes"], frame.anchors)

    def caught(targets: Any, outputs: Any, anchors: Any, matched: list[Tensor]) -> Tensor:
        return matched[0]

    # their losses match first and hand over to the head: here one that gives back what it is handed
    without_head = SimpleNamespace(
        head=SimpleNamespace(compute_loss=caught),
        proposal_matcher=getattr(network, "proposal_matcher", None),
        center_sampling_radius=getattr(network, "center_sampling_radius", None),
    )
    kind, more = (FCOS, [list(frame.levels)]) if isinstance(network, FCOS) else (RetinaNet, [])
    return kind.compute_loss(without_head, [objects], {}, [frame.anchors], *more)
