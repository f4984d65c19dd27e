"""A small default-box detector with everything that an attack must hand back: batch norm, dropout, its own losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from robustdet.types import Assignment, BoxLosses, DetectionLosses, Detections, RawPredictions, Target

CLASSES = 5
SIZE = 16
CELL = 4  # pixels: one default box a cell


class FakeDetector(nn.Module):
    """One default box per 4 x 4 pixels; a box belongs to the last object that holds its centre."""

    num_classes = CLASSES
    input_size = SIZE

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Softplus(), nn.Dropout(0.5), nn.Conv2d(8, 8, 4, CELL)
        )
        self.cls_head = nn.Conv2d(8, CLASSES + 1, 1)
        self.box_head = nn.Conv2d(8, 4, 1)
        self.cls_head.bias.requires_grad_(False)  # a model may come with frozen parts, which must stay frozen
        centres = (torch.arange(SIZE // CELL) + 0.5) * CELL / SIZE
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        size = torch.full_like(x, CELL / SIZE)
        self.register_buffer("default_boxes", torch.stack([x, y, size, size], dim=-1).view(-1, 4))

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> RawPredictions:
        features = F.softplus(self.backbone(images * 2 - 1))
        logits, boxes = (head(features).flatten(2).mT for head in (self.cls_head, self.box_head))
        return RawPredictions(logits, boxes, self.default_boxes)

    def assign(self, targets: list[Target]) -> Assignment:
        centres = self.default_boxes[:, :2] * SIZE
        labels = torch.zeros(len(targets), len(centres), dtype=torch.long)
        objects = torch.full_like(labels, -1)
        offsets = torch.zeros(len(targets), len(centres), 4)
        for i, target in enumerate(target.learnable for target in targets):
            for j, (box, label) in enumerate(zip(target.boxes, target.labels, strict=True)):
                inside = ((centres >= box[:2]) & (centres < box[2:])).all(dim=1)
                labels[i, inside], objects[i, inside] = label, j
                offsets[i, inside] = torch.cat([box[:2], box[2:]]).to(offsets) / SIZE
        return Assignment(labels, objects, offsets)

    def box_losses(self, raw: RawPredictions, assignment: Assignment) -> BoxLosses:
        cross_entropy = F.cross_entropy(raw.cls_logits.mT, assignment.labels, reduction="none")
        smooth_l1 = F.smooth_l1_loss(raw.bbox_regression, assignment.regression_targets, reduction="none").sum(-1)
        return BoxLosses(cross_entropy, smooth_l1 * (assignment.labels > 0))

    def localization(self, raw: RawPredictions, assignment: Assignment) -> Tensor:
        return self.losses(raw, assignment).localization

    def boxes(self, raw: RawPredictions) -> Tensor:
        """Where its boxes are: 11 pixels wide, from half a cell beside the default box on. [B, P, 4] xyxy, pixels."""
        centre = (raw.default_boxes[:, :2] + raw.bbox_regression[..., :2] / 50) * SIZE + CELL / 2
        return torch.cat([centre - 5.5, centre + 5.5], dim=-1)

    def overlaps(self, raw: RawPredictions, boxes: Tensor) -> Tensor:
        return torch.stack([box_iou(one, other) for one, other in zip(self.boxes(raw), boxes, strict=True)])

    def losses(self, raw: RawPredictions, assignment: Assignment) -> DetectionLosses:
        boxes = self.box_losses(raw, assignment)
        positive = assignment.labels > 0
        classification = (boxes.cross_entropy * positive.any(dim=1, keepdim=True)).sum(dim=1)
        return DetectionLosses(classification, boxes.localization.sum(dim=1), positive.sum(dim=1))

    def detect(self, raw: RawPredictions) -> list[Detections]:
        """Every default box with its most likely class, offsets as `assign` has them."""
        found = []
        for logits, boxes in zip(raw.cls_logits, raw.bbox_regression, strict=True):
            scores, labels = logits.softmax(dim=1)[:, 1:].max(dim=1)
            order = scores.argsort(descending=True)
            found.append(Detections(boxes[order] * SIZE, scores[order], labels[order] + 1))
        return found


@dataclass(frozen=True)
class RoutedPredictions(RawPredictions):
    routing: Tensor


class RoutedFake(FakeDetector):
    """Routed: a discriminator mixes K sets of gains for the features' channels."""

    def __init__(self, num_kernels: int = 3) -> None:
        super().__init__()
        self.aid = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, num_kernels))
        self.gains = nn.Parameter(torch.randn(num_kernels, 8))
        with torch.no_grad():
            self.aid[-1].weight *= 4  # so that a perturbation inside the ball moves it

    def forward(
        self, images: Tensor, generator: torch.Generator | None = None, routing: Tensor | None = None
    ) -> RoutedPredictions:
        routing = self.aid(images).softmax(dim=1) if routing is None else routing
        features = F.softplus(self.backbone(images * 2 - 1)) * (1 + routing @ self.gains)[:, :, None, None]
        logits, boxes = (head(features).flatten(2).mT for head in (self.cls_head, self.box_head))
        return RoutedPredictions(logits, boxes, self.default_boxes, routing)


class ConvexVictim:
    """Offers losses alone, both convex in the image: a sign step can only raise them."""

    def __init__(self) -> None:
        self.weight = torch.randn(CLASSES, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(3)) / SIZE

    @contextmanager
    def borrow(self, targets: list[Target]) -> Iterator[ConvexVictim]:
        yield self

    def losses(self, images: Tensor) -> DetectionLosses:
        scores = images.flatten(1) @ self.weight.T
        classification, localization = scores.logsumexp(dim=1) - scores[:, 0], F.softplus(scores[:, 1:]).sum(dim=1)
        return DetectionLosses(classification, localization, torch.ones(len(images), dtype=torch.long))

    def localization(self, images: Tensor) -> Tensor:
        return self.losses(images).localization


@cache
def _trained(kind: type[FakeDetector]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    model = kind()
    images, targets = batch()
    assignment = model.assign(targets)
    learning = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("aid")]
    optimizer = torch.optim.SGD(learning, lr=0.02, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        losses = model.losses(model(images), assignment)
        losses.per_positive(losses.total).backward()
        optimizer.step()
    return model.state_dict()


def detector(kind: type[FakeDetector] = FakeDetector) -> FakeDetector:
    """Trained on the fixed batch; in training mode but for one module, with a frozen part and gradients waiting."""
    model = kind()
    model.load_state_dict(_trained(kind))
    images, targets = batch()
    model.losses(model(images), model.assign(targets)).total.sum().backward()
    model.load_state_dict(_trained(kind))
    model.backbone[3].eval()
    return model


def target(image_id: str, boxes: list[list[float]], labels: list[int], difficult: list[bool] | None = None) -> Target:
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        difficult=torch.tensor(difficult or [False] * len(labels), dtype=torch.bool),
        crowd=torch.zeros(len(labels), dtype=torch.bool),
        image_id=image_id,
        original_size=(SIZE, SIZE),
    )


def batch() -> tuple[Tensor, list[Target]]:
    """Three images: two objects of two classes; one and a difficult one; none. Pixels as a file has them, n / 255."""
    pixels = torch.randint(0, 256, (3, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(2))
    return pixels / 255, [
        target("two", [[0, 0, 8, 8], [8, 8, 16, 16]], [1, 3]),
        target("one", [[4, 0, 16, 12], [0, 12, 4, 16]], [2, 4], difficult=[False, True]),
        target("none", [], []),
    ]


def state(model: nn.Module) -> dict[str, object]:
    """All that an attack must hand back, in comparable form."""
    return {
        "modes": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if p.grad is None else (id(p.grad), _bits(p.grad)) for p in model.parameters()],
        "tensors": {name: _bits(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())},
        "random": _bits(torch.get_rng_state()),
        "grad_enabled": torch.is_grad_enabled(),
        "cudnn": [getattr(torch.backends.cudnn, flag) for flag in ("enabled", "benchmark", "deterministic")],
    }


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().numpy().tobytes()
