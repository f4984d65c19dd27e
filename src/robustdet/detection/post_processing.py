"""From raw predictions to detections: softmax, score threshold and non-maximum suppression for each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from robustdet.detection.boxes import decode
from robustdet.types import Detections, RawPredictions

NEAR = 10  # image widths: boxes meet in suppression cut to what is nearer, see below
FARTHEST = 1e4  # image widths: where the exponential in a box's size overflows, the box is wrong but stays a box


@dataclass(frozen=True)
class PostProcessing:
    """SSD's settings (section 3.1 there). Boxes are not clipped to the image.

    ``candidates_per_class`` is the number of best boxes of a class that meet in suppression; it also bounds what a
    class can keep. ``max_detections`` bounds what an image keeps, over all classes; None keeps all.
    """

    score_threshold: float = 0.01
    nms_threshold: float = 0.45
    candidates_per_class: int = 400
    max_detections: int | None = 200

    def __call__(self, raw: RawPredictions, input_size: int, num_classes: int | None = None) -> list[Detections]:
        """The detections of each image, best first; boxes are xyxy pixels of an image of ``input_size`` pixels.

        Only labels up to ``num_classes`` are detected; None for all. An image whose predictions are not finite has no
        detections; who judges a detector has to look for that. Boxes and scores carry the gradients of ``raw``.
        """
        finite = raw.cls_logits.isfinite().all(dim=(1, 2)) & raw.bbox_regression.isfinite().all(dim=(1, 2))
        scores = raw.cls_logits.float().softmax(dim=-1)[..., 1:][..., :num_classes]
        scores = scores.where(finite[:, None, None], 0)
        boxes = decode(raw.bbox_regression.float(), raw.default_boxes.float()).clamp(-FARTHEST, FARTHEST) * input_size
        # The best candidates of all images and classes at once; the survivors of an image then meet one another.
        best, index = scores.transpose(1, 2).topk(min(self.candidates_per_class, scores.shape[1]), dim=2)
        # How many these are the host has to know: it waits here, and once an image in suppression.
        found = best > self.score_threshold
        image, classes, rank = torch.nonzero(found, as_tuple=True)
        counts = found.sum(dim=(1, 2)).tolist()
        chosen = boxes[image, index[image, classes, rank]], best[image, classes, rank], classes
        each = zip(*(part.split(counts) for part in chosen), strict=True)
        return [self._of_image(NEAR * input_size, *of_image) for of_image in each]

    def _of_image(
        self, near: float | int, boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], classes: Int[Tensor, "n"]
    ) -> Detections:
        # Many boxes meet at once, each class moved aside by the farthest corner of all: in single precision one box
        # that is far away would take the digits of all others. From how many boxes on, depends on the device.
        keep = batched_nms(boxes.clamp(-near, near), scores, classes, self.nms_threshold)[: self.max_detections]
        return Detections(boxes[keep], scores[keep], classes[keep] + 1)
