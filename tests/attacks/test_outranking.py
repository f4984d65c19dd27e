import math
from dataclasses import replace

import pytest
import torch

from robustdet.attacks.objectives import prepared, total
from robustdet.attacks.outranking import Outranking
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from robustdet.types import Target
from tests.attacks import fakes

THREAT = LInf("8/255")


def generators() -> list[torch.Generator]:
    return image_generators(0, ["two", "one", "none"])


def iou(one, other) -> float:
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    overlap = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return overlap / (sum(areas) - overlap)


def slow_value(detector, raw, row: int, target: Target, temperature: float, level: float, false_alarms: float) -> float:
    """One image, box by box and class by class, with probabilities instead of their logarithms."""
    boxes = detector.boxes(raw)[row].tolist()
    probabilities = raw.cls_logits[row].double().softmax(dim=-1).tolist()
    objects = list(zip(target.boxes.tolist(), target.labels.tolist(), strict=True))
    counts = (~(target.difficult | target.crowd)).tolist()
    wrong, right = dict.fromkeys(range(1, fakes.CLASSES + 1), 0.0), [0.0] * len(objects)
    for box, of_box in zip(boxes, probabilities, strict=True):
        for label in wrong:
            found = [n for n, (place, of_class) in enumerate(objects) if of_class == label and iou(box, place) >= 0.5]
            share = of_box[label] ** (1 / temperature)
            wrong[label] += 0 if found else share
            for n in found:
                right[n] += share
    reference = math.exp(level / temperature)
    value = 0.0
    for (_, label), r, asked_for in zip(objects, right, counts, strict=True):
        value -= asked_for * temperature * (math.log1p(r / wrong[label]) + math.log1p(r / reference))
    return value - false_alarms * sum(temperature * math.log1p(reference / w) for w in wrong.values())


def detector_of(num_batch: int = 3):
    images, targets = fakes.batch()
    return fakes.detector().eval(), images[:num_batch], targets[:num_batch]


@pytest.mark.parametrize("settings", [(1.0, -1.0, 0.6), (0.5, -2, 0.1), (2, 0.0, 1)])
def test_is_what_a_slow_loop_over_boxes_and_classes_gives(settings):
    detector, images, targets = detector_of()
    found = 0
    with DetectorVictim(detector).borrow(targets) as model, torch.no_grad():
        objective = prepared(Outranking(*settings), model, images)
        for place in (images, images.flip(-1), images.roll(4, -1)):
            raw = model.predict(place)
            expected = [slow_value(detector, raw, row, target, *settings) for row, target in enumerate(targets)]
            assert objective(model, place).tolist() == pytest.approx(expected, rel=1e-4)
            found += sum(slow_value(detector, raw, n, one, *settings[:2], 0) < -0.01 for n, one in enumerate(targets))
    assert found  # objects that are found, somewhere


def test_an_object_that_no_box_finds_costs_nothing_and_has_no_gradient():
    detector, images, targets = detector_of(1)
    nowhere = replace(targets[0], boxes=torch.tensor([[0.0, 0, 1, 1], [15, 15, 16, 16]]))
    pixels = images.clone().requires_grad_()
    with DetectorVictim(detector).borrow([nowhere]) as model:
        value = prepared(Outranking(false_alarms=0), model, images)(model, pixels)
        (gradient,) = torch.autograd.grad(value.sum(), pixels)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_one_class_alone_gives_finite_numbers():
    """Where every box finds the only object there is nothing wrong to outrank it."""
    detector, images, targets = detector_of(1)
    everywhere = replace(
        targets[0], boxes=torch.tensor([[0.0, 0, 16, 16]]), labels=torch.tensor([1]),
        difficult=torch.tensor([False]), crowd=torch.tensor([False]),
    )  # fmt: skip
    with DetectorVictim(detector).borrow([everywhere]) as model, torch.no_grad():
        raw = model.predict(images)
        alone = replace(raw, cls_logits=raw.cls_logits[..., :2])
        one_class = DetectorVictim(detector, lambda images, routing=None: alone)
        detector.num_classes = 1
        with one_class.borrow([everywhere]) as lent:
            assert prepared(Outranking(), lent, images)(lent, images).isfinite().all()
    detector.num_classes = fakes.CLASSES


def test_lowers_the_share_of_right_detections_more_than_the_loss_does():
    detector, images, targets = detector_of()
    victim = DetectorVictim(detector)
    by_rank, by_loss = (
        PGD(objective, THREAT, 10, "2/255")(victim, images, targets, generators())
        for objective in (Outranking(), total)
    )
    with victim.borrow(targets) as model, torch.no_grad():
        objective = prepared(Outranking(), model, images)
        clean, lowest, middle = (objective(model, place)[:2].sum() for place in (images, by_rank, by_loss))
    assert lowest > middle
    assert lowest > clean


@pytest.mark.parametrize("mark", ["difficult", "crowd"])
def test_what_finds_a_difficult_object_or_a_crowd_is_neither_right_nor_wrong(mark):
    """As in AP: it is worth nothing to lose it, and it outranks nothing."""
    detector, images, targets = detector_of(1)
    both = targets[0]
    marked = replace(both, **{mark: torch.tensor([False, True])})
    without = replace(both, **{name: getattr(both, name)[:1] for name in ("boxes", "labels", "difficult", "crowd")})
    victim = DetectorVictim(detector)
    values = []
    for target in (both, marked, without):
        with victim.borrow([target]) as model, torch.no_grad():
            values.append(prepared(Outranking(), model, images)(model, images).item())
    raw = detector(images)
    expected = [slow_value(detector, raw, 0, target, 1.0, -1.0, 0.6) for target in (both, marked, without)]
    assert values == pytest.approx(expected, rel=1e-4)
    assert len(set(values)) == 3  # to be lost, to be passed over, to be a false alarm


@pytest.mark.parametrize("temperature", [0, -1])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match=f"expected a positive temperature, got {temperature}"):
        Outranking(temperature)
