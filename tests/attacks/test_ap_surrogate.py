from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustdet.attacks.ap_surrogate import APSurrogate, judged
from robustdet.attacks.victim import DetectorVictim
from robustdet.evaluation.average_precision import match_detections
from robustdet.types import Detections, Target
from tests.attacks import fakes

BOXES = st.tuples(*(st.integers(0, 20),) * 2, *(st.integers(0, 12),) * 2)


def drawn_boxes(boxes: list[tuple[int, ...]]) -> torch.Tensor:
    left, top, width, height = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4).unbind(1)
    return torch.stack([left, top, left + width, top + height], dim=1)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Detections, Target]:
    """A few objects, and detections, best first, many of them on or beside an object."""
    objects = draw(st.lists(BOXES, max_size=4))
    beside = [tuple(value + draw(st.sampled_from([0, 1, 3])) for value in draw(st.sampled_from(objects)))
              for _ in range(draw(st.integers(0, 8) if objects else st.just(0)))]  # fmt: skip
    boxes = draw(st.permutations(beside + draw(st.lists(BOXES, max_size=3))))
    labels = st.integers(1, 2)
    found = Detections(
        drawn_boxes(boxes),
        torch.linspace(0.9, 0.1, len(boxes)),
        torch.tensor(draw(st.lists(labels, min_size=len(boxes), max_size=len(boxes))), dtype=torch.long),
    )
    marks = draw(
        st.lists(st.tuples(labels, st.booleans(), st.booleans()), min_size=len(objects), max_size=len(objects))
    )
    labels, difficult, crowd = zip(*marks, strict=True) if marks else ((), (), ())
    target = Target(
        drawn_boxes(objects),
        torch.tensor(labels, dtype=torch.long),
        torch.tensor(difficult, dtype=torch.bool),
        torch.tensor(crowd, dtype=torch.bool),
        "drawn",
        (32, 32),
    )
    return found, target


@given(scenes())
def test_hits_and_false_alarms_are_those_of_average_precision(scene):
    found, target = scene
    hits, false_alarms = judged(found, target)
    expected = match_detections(found, target)
    assert found.scores[hits].tolist() == pytest.approx(expected.scores[expected.hits].tolist())
    assert found.scores[false_alarms].tolist() == pytest.approx(expected.scores[~expected.hits].tolist())


@pytest.mark.parametrize("settings", [(2.0, 1.5, 0.01), (-1, 1, 0.5), (0.5, 3, 0)])
def test_is_the_sum_over_hits_and_false_alarms(settings):
    threshold, width, cost = settings
    images, targets = fakes.batch()
    detector = fakes.detector().eval()
    with DetectorVictim(detector).borrow(targets) as model, torch.no_grad():
        values = APSurrogate(*settings)(model, images).tolist()
        of_images = detector.detect(model.predict(images))
    hits = 0
    for value, found, target in zip(values, of_images, targets, strict=True):
        expected, matched = 0.0, match_detections(found, target)
        for score, hit in zip(matched.scores.tolist(), matched.hits.tolist(), strict=True):
            worth = 1 / (1 + math.exp(-(math.log(score / (1 - score)) - threshold) / width))
            expected += -worth if hit else cost * worth
        assert value == pytest.approx(expected, rel=1e-4)
        hits += matched.hits.sum()
    assert hits


def test_an_image_without_detections_has_no_value_and_no_gradient():
    images, targets = fakes.batch()
    detector = fakes.detector().eval()
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    detector.detect = lambda raw: [nothing for _ in raw.cls_logits]
    pixels = images.clone().requires_grad_()
    with DetectorVictim(detector).borrow(targets) as model:
        values = APSurrogate()(model, pixels)
        (gradient,) = torch.autograd.grad(values.sum(), pixels)
    assert values.tolist() == [0] * len(images)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_score_of_one_stays_finite():
    images, targets = fakes.batch()
    detector = fakes.detector().eval()
    with DetectorVictim(detector).borrow(targets) as model:
        raw = model.predict(images)
        sure = DetectorVictim(detector, lambda images, routing=None: replace(raw, cls_logits=1000 * raw.cls_logits))
        with sure.borrow(targets) as lent:
            assert APSurrogate()(lent, images).isfinite().all()


@pytest.mark.parametrize("width", [0, -1])
def test_refuses_a_width_that_is_not_positive(width):
    with pytest.raises(ValueError, match=f"expected a positive width, got {width}"):
        APSurrogate(width=width)


def test_a_detector_that_detaches_its_detections_is_named():
    """Its gradient would be zero, and the attack would do nothing in silence."""
    images, targets = fakes.batch()
    detector = fakes.detector().eval()
    detector.detect = torch.no_grad()(detector.detect)
    with DetectorVictim(detector).borrow(targets) as model:
        APSurrogate()(model, images)
        with pytest.raises(
            TypeError, match=r"APSurrogate needs scores that carry gradients: FakeDetector\.detect detach"
        ):
            APSurrogate()(model, images.clone().requires_grad_())


def test_a_score_that_is_not_a_number_counts_as_zero():
    images, targets = fakes.batch()
    detector = fakes.detector().eval()
    detect = detector.detect
    pixels = images.clone().requires_grad_()

    def broken(raw, score):
        return [replace(found, scores=found.scores.index_fill(0, torch.tensor([0]), score)) for found in detect(raw)]

    values = []
    for score in (math.nan, 0.0):
        detector.detect = lambda raw, score=score: broken(raw, score)
        with DetectorVictim(detector).borrow(targets) as model:
            values.append(APSurrogate()(model, pixels))
            (gradient,) = torch.autograd.grad(values[-1].sum(), pixels)
            assert gradient.isfinite().all()
    assert torch.equal(*values)
