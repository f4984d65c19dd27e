"""The paper's losses and attacks a second time: one image, one box, one number after the other.

Only a network's forward pass and the assignment of default boxes, which have slow loops of their own elsewhere, are the
project's. Results carry gradients. The fixture ``double`` makes everything here double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robustdet.types import Batch, RawPredictions, Target
from tests.detection.conftest import build_detector, make_target

EPSILON = 8 / 255

Objective = Callable[[Any, Tensor, Target], Tensor]  # (model, one image, its target) → what an attack climbs


def build(name: str, overrides: Sequence[str] = ()) -> Any:
    """In evaluation mode, so that batch norm of the decoder knows no neighbours, with weights that learn."""
    return build_detector(name, overrides).to(torch.get_default_dtype()).requires_grad_(True)


def batch(seed: int, count: int = 2) -> Batch:
    """Images with two objects, one and (a third) none; beside them one that is too difficult to be a target.

    Another seed has other images, boxes, labels and names.
    """
    images = torch.rand(count, 3, 96, 96, generator=torch.Generator().manual_seed(seed))
    shift = 3 * (seed % 3)
    boxes = [[[8, 10, 60, 70], [40, 20, 86, 88], [1, 1, 20, 88]], [[30, 5, 70, 66]], []]
    labels = [[(label + seed) % 20 + 1 for label in group] for group in ([7, 12, 3], [19], [])]
    targets = [make_target(boxes[0], labels[0], difficult=[2]), make_target(boxes[1], labels[1]), make_target([])]
    for place, target in enumerate(targets):
        target.image_id, target.boxes = f"{seed}-{place}", target.boxes.to(images.dtype) + shift
    return Batch(images, targets[:count])


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return logits.exp().sum().log() - logits[label]


def smooth_l1(offsets: Tensor, goal: Tensor) -> Tensor:
    errors = [abs(offset - wanted) for offset, wanted in zip(offsets, goal, strict=True)]
    return sum((error**2 / 2 if error < 1 else error - 0.5 for error in errors), torch.zeros(()))


def det_sums(model: Any, raw: RawPredictions, target: Target, row: int = 0) -> tuple[Tensor, Tensor, int]:
    """Of one image: cross-entropy over positives and three hard negatives for each, smooth L1, positives."""
    assignment = model.assign([target])
    labels = assignment.labels[0].tolist()
    positives = [p for p, label in enumerate(labels) if label > 0]
    hardness = {p: math.log(sum(map(math.exp, x))) - x[0] for p, x in enumerate(raw.cls_logits[row].tolist())}
    background = sorted((p for p, label in enumerate(labels) if label == 0), key=lambda p: -hardness[p])
    classification = localization = raw.cls_logits.sum() * 0
    for p in [*positives, *background[: 3 * len(positives)]]:
        classification = classification + cross_entropy(raw.cls_logits[row, p], labels[p])
    for p in positives:
        localization = localization + smooth_l1(raw.bbox_regression[row, p], assignment.regression_targets[0, p])
    return classification, localization, len(positives)


def a_cls(model: Any, image: Tensor, target: Target) -> Tensor:
    return det_sums(model, model(image[None]), target)[0]


def a_loc(model: Any, image: Tensor, target: Target) -> Tensor:
    return det_sums(model, model(image[None]), target)[1]


def cwat(model: Any, image: Tensor, target: Target, clip: float = 5.0) -> Tensor:
    """Mean over classes of the mean over objects of the mean loss of their default boxes, each task cut."""
    raw, assignment = model(image[None]), model.assign([target])
    owners = assignment.objects[0].tolist()
    classes: dict[int, list[Tensor]] = {}
    for number, label in enumerate(target.learnable.labels.tolist()):
        mine = [p for p, owner in enumerate(owners) if owner == number]
        if mine:
            offsets = [smooth_l1(raw.bbox_regression[0, p], assignment.regression_targets[0, p]) for p in mine]
            entropies = [cross_entropy(raw.cls_logits[0, p], label) for p in mine]
            tasks = (sum(entropies) / len(mine), sum(offsets) / len(mine))
            classes.setdefault(label, []).append(sum(task if task < clip else torch.tensor(clip) for task in tasks))
    means = [sum(objects) / len(objects) for objects in classes.values()]
    return sum(means, torch.zeros(())) / max(len(means), 1)


def sign_step(objective: Objective, model: Any, image: Tensor, clean: Tensor, target: Target, size: float) -> Tensor:
    image = image.detach().requires_grad_()
    value = objective(model, image, target)
    gradient = torch.autograd.grad(value, image)[0] if value.requires_grad else torch.zeros_like(image)
    moved = image.detach() + size * gradient.sign()
    return moved.clamp(clean - EPSILON, clean + EPSILON).clamp(0, 1)


def mtd_step(model: Any, image: Tensor, clean: Tensor, target: Target, size: float) -> Tensor:
    """The one of two sign steps after which the whole loss is higher; classification's where they tie."""
    by_cls, by_loc = (sign_step(task, model, image, clean, target, size) for task in (a_cls, a_loc))
    with torch.no_grad():
        cls, loc = (sum(det_sums(model, model(moved[None]), target)[:2]) for moved in (by_cls, by_loc))
    return by_loc if loc > cls else by_cls


def step_of(objective: Objective) -> Callable[[Any, Tensor, Tensor, Target, float], Tensor]:
    return lambda *arguments: sign_step(objective, *arguments)


STEPS = {"a_cls": step_of(a_cls), "a_loc": step_of(a_loc), "mtd": mtd_step, "cwat": step_of(cwat)}


def moved(name: str, model: Any, images: Tensor, source: Batch, size: float) -> Tensor:
    """Every image one step further, each on its own."""
    return torch.stack([
        STEPS[name](model, image, clean, target, size)
        for image, clean, target in zip(images, source.images, source.targets, strict=True)
    ])  # fmt: skip


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    total = torch.zeros(())
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        total = total + a / 2 * (a / m).log() + b / 2 * (b / m).log()
    return total
