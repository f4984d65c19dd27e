"""Random ground truth and detections that are partly right: jittered boxes, wrong labels, duplicates, clutter."""

import torch

from robustdet.types import Detections, Target


def boxes(n: int, size: float, generator: torch.Generator) -> torch.Tensor:
    corner = torch.rand(n, 2, generator=generator) * size * 0.7
    return torch.cat([corner, corner + 4 + torch.rand(n, 2, generator=generator) * size * 0.3], 1)


def target(image_id: str, box, labels, difficult=None, crowd=None, original_size=(100, 100)) -> Target:
    n = len(labels)
    return Target(
        boxes=torch.as_tensor(box, dtype=torch.float32).reshape(n, 4),
        labels=torch.as_tensor(labels, dtype=torch.long),
        difficult=torch.as_tensor([False] * n if difficult is None else difficult, dtype=torch.bool),
        crowd=torch.as_tensor([False] * n if crowd is None else crowd, dtype=torch.bool),
        image_id=image_id,
        original_size=original_size,
    )


def detections(box, scores, labels) -> Detections:
    n = len(labels)
    return Detections(
        boxes=torch.as_tensor(box, dtype=torch.float32).reshape(n, 4),
        scores=torch.as_tensor(scores, dtype=torch.float32),
        labels=torch.as_tensor(labels, dtype=torch.long),
    )


def scene(
    num_images: int,
    num_classes: int,
    seed: int,
    most_objects: int = 5,
    clutter: int = 6,
    size: float = 100.0,
    difficult: float = 0.2,
    crowd: float = 0.0,
) -> tuple[dict[str, Detections], dict[str, Target]]:
    """Images without objects and images without detections occur; scores are all different."""
    g = torch.Generator().manual_seed(seed)

    def integer(high: int) -> int:
        return int(torch.randint(high, (), generator=g))

    found, truth = {}, {}
    for index in range(num_images):
        n, name = integer(most_objects + 1), f"{index:06d}"
        truth[name] = target(
            name,
            boxes(n, size, g),
            torch.randint(1, num_classes + 1, (n,), generator=g),
            torch.rand(n, generator=g) < difficult,
            torch.rand(n, generator=g) < crowd,
        )
        copies = torch.arange(n).repeat(2)[torch.rand(2 * n, generator=g) < 0.7]
        near = truth[name].boxes[copies] + torch.randn(len(copies), 4, generator=g) * size / 60
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        labels = truth[name].labels[copies].clone()
        wrong = torch.rand(len(copies), generator=g) < 0.2
        labels[wrong] = torch.randint(1, num_classes + 1, (int(wrong.sum()),), generator=g)
        extra = integer(clutter + 1)
        found[name] = detections(
            torch.cat([near, boxes(extra, size, g)]),
            torch.rand(len(copies) + extra, generator=g).sort(descending=True).values,
            torch.cat([labels, torch.randint(1, num_classes + 1, (extra,), generator=g)]),
        )
    return found, truth
