from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from robustdet.attacks.adaptive import Adaptive, own
from robustdet.attacks.among_others import AmongOthers, Curves, displaced, held
from robustdet.attacks.ap_surrogate import APSurrogate, judged
from robustdet.attacks.apgd import APGD
from robustdet.attacks.highest_loss import HighestLoss
from robustdet.attacks.outranking import Outranking
from robustdet.attacks.pgd import PGD
from robustdet.attacks.steering import Steering
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from robustdet.evaluation.average_precision import match_detections
from tests.attacks import fakes

CURVES = Curves(-3.0, 3.0, torch.rand(2, fakes.CLASSES, 13, generator=torch.Generator().manual_seed(0)) - 0.3)


def slow_worth(curves: Curves, score: float, label: int, hit: bool) -> float:
    columns = np.linspace(curves.low, curves.high, curves.effects.shape[2])
    return float(np.interp(np.log(score / (1 - score)), columns, curves.effects[int(hit), label - 1].double().numpy()))


def test_a_detection_is_worth_what_its_curve_says():
    scores = torch.tensor([0.01, 0.2, 0.5, 0.731, 0.93, 0.99])
    for label in (1, 2):
        for hit in (False, True):
            worth = CURVES.worth(scores.logit(), torch.full((6,), label), torch.full((6,), hit))
            expected = [slow_worth(CURVES, score, label, hit) for score in scores.tolist()]
            assert worth.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_class_that_the_curves_lack_is_worth_nothing():
    worth = CURVES.worth(torch.zeros(2), torch.tensor([fakes.CLASSES, fakes.CLASSES + 1]), torch.tensor([True, True]))
    assert worth[0] != 0
    assert worth[1] == 0


def test_the_gradient_is_the_slope_between_columns_and_zero_beyond_the_ends():
    log_odds = torch.tensor([0.25, 5.0, -5.0], requires_grad=True)
    CURVES.worth(log_odds, torch.tensor([1, 1, 1]), torch.tensor([True, True, True])).sum().backward()
    slope = (CURVES.effects[1, 0, 7] - CURVES.effects[1, 0, 6]) / 0.5
    assert log_odds.grad.tolist() == pytest.approx([slope.item(), 0, 0], rel=1e-4)


def test_is_the_sum_of_what_the_detections_of_an_image_are_worth():
    images, targets = fakes.batch()
    detector = fakes.detector().eval()
    objective = AmongOthers()
    objective.among(CURVES)
    with DetectorVictim(detector).borrow(targets) as model, torch.no_grad():
        values = objective(model, images).tolist()
        of_images = detector.detect(model.predict(images))
    for value, found, target in zip(values, of_images, targets, strict=True):
        one = match_detections(found, target)
        columns = zip(one.scores.tolist(), one.labels.tolist(), one.hits.tolist(), strict=True)
        assert value == pytest.approx(-sum(slow_worth(CURVES, *each) for each in columns), abs=1e-4)


def test_without_curves_it_is_the_surrogate():
    images, targets = fakes.batch()
    with DetectorVictim(fakes.detector()).borrow(targets) as model, torch.no_grad():
        alone, surrogate = AmongOthers(1.0, 2.0, 0.1)(model, images), APSurrogate(1.0, 2.0, 0.1)(model, images)
    assert torch.equal(alone, surrogate)
    assert surrogate.abs().sum() > 0


@pytest.mark.parametrize(
    "other",
    [
        replace(CURVES, low=-2.0),
        replace(CURVES, high=4.0),
        replace(CURVES, effects=CURVES.effects + 1e-6),
        replace(CURVES, effects=CURVES.effects.transpose(0, 1).contiguous().transpose(0, 1)[:, :1]),
    ],
)
def test_other_curves_have_another_digest(other: Curves):
    assert other.digest != CURVES.digest
    assert replace(CURVES).digest == CURVES.digest == CURVES.to("cpu").digest


def test_which_attacks_want_the_others():
    wanted = AmongOthers()
    direct = APGD(wanted, LInf("8/255"), 3)
    assert list(held(direct, AmongOthers)) == [wanted]
    assert list(held(APGD(Outranking(), LInf("8/255"), 3), AmongOthers)) == list(held(None, AmongOthers)) == []
    # however deep: as a start, behind a door, in an attack that holds attacks
    deep = [
        APGD(Outranking(), LInf("8/255"), 3, [direct]),
        Adaptive(PGD(Steering(wanted, 0), LInf("8/255"), 3, 0.1), own),
    ]
    for attack in (*deep, HighestLoss({"one": direct}), {"by name": direct}):
        assert list(held(attack, AmongOthers)) == [wanted]


def slow_displaced(model, raw, found, target, row) -> float:
    """The sum over the objects of an image, box by box, in double precision."""
    p = raw.cls_logits[row].detach().double().softmax(dim=1)
    hits = judged(found, target)[0].tolist()
    boxes = {}  # of the hit of each object
    for place in range(len(found.scores)):
        if hits[place]:
            same = [index for index, of in enumerate(target.labels.tolist()) if of == int(found.labels[place])]
            ious = box_iou(found.boxes[place][None], target.boxes[same])[0]
            boxes[same[int(ious.argmax())]] = found.boxes[place]
    total = 0.0
    for index, label in enumerate(target.labels.tolist()):
        if target.difficult[index] or target.crowd[index]:
            continue
        object_box = target.boxes[index]
        to_hit, to_object = (
            model.overlaps_of(raw, one.expand(len(raw.cls_logits), 1, 4))[row, :, 0].detach().double()
            for one in (boxes.get(index, object_box), object_box)
        )
        right = [p[box, label] ** 2 for box in range(len(p)) if to_object[box] >= 0.5]
        wrong = [
            (p[box, label] * torch.sigmoid((0.5 - to_object[box]) / 0.05)) ** 2
            for box in range(len(p))
            if to_hit[box] > 0.45 and to_object[box] > 0.05
        ]
        r, s = (max(0.5 * math.log(sum(terms)), -30.0) if terms else -30.0 for terms in (right, wrong))
        total -= math.log1p(math.exp(r - s))
    return total


def test_displacement_is_how_near_objects_are_to_being_lost_to_suppression():
    images, targets = fakes.batch()
    detector = fakes.detector().eval()
    with DetectorVictim(detector).borrow(targets) as model:
        pixels = images.clone().requires_grad_()
        raw = model.predict(pixels)
        of_images = detector.detect(raw)
        values = displaced(model, raw, of_images)
        expected = [slow_displaced(model, raw, found, targets[row], row) for row, found in enumerate(of_images)]
        assert values.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert min(expected) < 0  # there are objects
        assert values[2] == 0  # and none without objects
        assert torch.autograd.grad(values.sum(), pixels)[0].isfinite().all()


def test_displacement_stands_beside_what_detections_are_worth():
    images, targets = fakes.batch()
    plain, both = AmongOthers(), AmongOthers(displacement=0.5)
    for objective in (plain, both):
        objective.among(CURVES)
    with DetectorVictim(fakes.detector().eval()).borrow(targets) as model, torch.no_grad():
        raw = model.predict(images)
        beside = displaced(model, raw, model.detector.detect(raw))
        assert torch.allclose(both(model, images), plain(model, images) + 0.5 * beside, atol=1e-5)
