"""A detector of bright quadrants, small enough to be attacked in milliseconds; the class is the brightest channel."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from robustdet.types import (
    Assignment,
    Batch,
    BoxLosses,
    DetectionLosses,
    Detections,
    RawPredictions,
    Target,
)
from tests.evaluation.scenes import target

SIZE = 8
QUADRANTS = torch.tensor(
    [[0.25, 0.25, 0.5, 0.5], [0.75, 0.25, 0.5, 0.5], [0.25, 0.75, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]
)
CORNERS = torch.cat([QUADRANTS[:, :2] - 0.25, QUADRANTS[:, :2] + 0.25], 1) * SIZE


class QuadrantDetector(nn.Module):
    """Logit of class c in a quadrant: 20 * (mean of channel c - 0.5); background has logit 0.

    Box offsets grow with brightness; ``detect`` ignores them.
    """

    num_classes, input_size = 3, SIZE

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.register_buffer("quadrants", QUADRANTS, persistent=False)
        self.register_buffer("corners", CORNERS, persistent=False)
        self.images_seen = 0

    def forward(self, images, generator=None) -> RawPredictions:
        self.images_seen += len(images)
        means = nn.functional.avg_pool2d(images, SIZE // 2).flatten(2).transpose(1, 2)  # [B, 4, 3]
        logits = torch.cat([torch.zeros_like(means[..., :1]), self.scale * (means - 0.5)], 2)
        offsets = 0.1 * means.mean(2, keepdim=True).expand(-1, -1, 4)
        return RawPredictions(logits, offsets, self.quadrants)

    def assign(self, targets) -> Assignment:
        labels, objects = torch.zeros(len(targets), 4, dtype=torch.long), torch.full((len(targets), 4), -1)
        for row, one in enumerate(targets):
            for index, (box, label) in enumerate(zip(one.learnable.boxes, one.learnable.labels, strict=True)):
                place = int((CORNERS - box.cpu()).abs().sum(1).argmin())
                labels[row, place], objects[row, place] = label, index
        device = self.scale.device
        return Assignment(labels.to(device), objects.to(device), torch.zeros(len(targets), 4, 4, device=device))

    def box_losses(self, raw, assignment) -> BoxLosses:
        entropy = nn.functional.cross_entropy(raw.cls_logits.transpose(1, 2), assignment.labels, reduction="none")
        offsets = raw.bbox_regression
        smooth = nn.functional.smooth_l1_loss(offsets, assignment.regression_targets, reduction="none").sum(2)
        return BoxLosses(entropy, smooth * (assignment.labels > 0))

    def localization(self, raw, assignment) -> Tensor:
        return self.box_losses(raw, assignment).localization.sum(1)

    def losses(self, raw, assignment) -> DetectionLosses:
        each = self.box_losses(raw, assignment)
        return DetectionLosses(each.cross_entropy.sum(1), each.localization.sum(1), (assignment.labels > 0).sum(1))

    def overlaps(self, raw, boxes) -> Tensor:
        return torch.stack([box_iou(self.corners.to(raw.cls_logits), of_image) for of_image in boxes])

    def detect(self, raw) -> list[Detections]:
        found = []
        for probabilities in raw.cls_logits.softmax(2):
            scores, labels = probabilities[:, 1:].max(1)
            order = scores.argsort(descending=True)
            found.append(Detections(self.corners[order], scores[order], labels[order] + 1))
        return found


@dataclass(frozen=True)
class RoutedPredictions(RawPredictions):
    routing: Tensor


class RoutedQuadrantDetector(QuadrantDetector):
    """Routed by brightness: four scales of the logits are mixed."""

    def forward(self, images, generator=None, routing=None) -> RoutedPredictions:
        raw = super().forward(images)
        steps = torch.arange(4.0, device=images.device)
        routing = (steps * images.mean(dim=(1, 2, 3))[:, None]).softmax(dim=1) if routing is None else routing
        logits = raw.cls_logits * (1 + routing @ steps)[:, None, None]
        return RoutedPredictions(logits, raw.bbox_regression, raw.default_boxes, routing)


def quadrant_batches(num_images: int, batch_size: int, seed: int = 0) -> list[Batch]:
    """Dim 8-bit noise with some quadrants bright in one channel; one image in three has no object."""
    g = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for number in range(num_images):
        image = torch.randint(0, 200, (3, SIZE, SIZE), generator=g)
        places = [] if number % 3 == 0 else torch.randperm(4, generator=g)[: 1 + number % 2].tolist()
        labels = torch.randint(1, 4, (len(places),), generator=g).tolist()
        for place, label in zip(places, labels, strict=True):
            x0, y0, x1, y1 = CORNERS[place].int().tolist()
            image[label - 1, y0:y1, x0:x1] = 150 + torch.randint(0, 10, (), generator=g)
        images.append(image.float() / 255)
        targets.append(_target(number, places, labels))
    return [
        Batch(torch.stack(images[i : i + batch_size]), targets[i : i + batch_size])
        for i in range(0, num_images, batch_size)
    ]


def _target(number: int, places: list[int], labels: list[int]) -> Target:
    return target(f"image{number:03d}", CORNERS[places], labels, original_size=(SIZE, SIZE))
