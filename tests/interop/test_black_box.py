"""A function as a detector: what it may return, what is refused, and which attacks it meets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustdet.attacks import PGD, DetectorVictim, LInf, Noise, Square, image_generators
from robustdet.attacks.ap_surrogate import APSurrogate
from robustdet.attacks.objectives import total
from robustdet.errors import InputError
from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.metric import VocMetric
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.interop.black_box import BlackBox
from robustdet.types import Batch, Detections, offers
from tests.detection.conftest import make_target
from tests.evaluation.records import RUN
from tests.interop.networks import SIZE, bright_boxes

BALL = LInf("16/255")


def scene() -> Batch:
    """A bright square in each of two dark images, and nothing in a third."""
    images = torch.full((3, 3, SIZE, SIZE), 0.3)
    images[0, :, 10:30, 20:50] = images[1, :, 30:60, 5:25] = 0.6
    targets = [
        make_target([[20, 10, 50, 30]], [1], image_id="first"),
        make_target([[5, 30, 25, 60]], [1], image_id="second"),
        make_target([], image_id="third"),
    ]
    return Batch(images, targets)


def black_box(function=bright_boxes) -> BlackBox:
    return BlackBox(function=function, input_size=SIZE, name="bright", num_classes=2).eval()


BOXES, SCORES, LABELS = [[0, 0, 8, 8], [8, 8, 20, 24]], [0.2, 0.9], [1, 2]


@pytest.mark.parametrize(
    "found",
    [
        {"boxes": BOXES, "scores": SCORES, "labels": LABELS},
        (np.array(BOXES), np.array(SCORES), np.array(LABELS)),
        [torch.tensor(BOXES), torch.tensor(SCORES), torch.tensor(LABELS).float()],
        Detections(torch.tensor(BOXES).float(), torch.tensor(SCORES), torch.tensor(LABELS)),
    ],
)
def test_dictionaries_arrays_lists_and_detections_are_read_best_first(found: object):
    detector = black_box(lambda images: [found] * len(images))
    for one in detector.detect(detector(torch.rand(2, 3, SIZE, SIZE))):
        assert one.boxes.tolist() == BOXES[::-1]
        assert one.scores.tolist() == pytest.approx([0.9, 0.2])
        assert one.labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"boxes": BOXES, "scores": SCORES}, "bright: no labels among boxes, scores"),
        ((BOXES, SCORES), "bright: expected boxes, scores and labels of an image, got 2 things"),
        (
            (BOXES[:1], SCORES, LABELS),
            r"bright: boxes have shape \[1, 4\], expected \[D, 4\] with D, as many as s",
        ),
        (([[1, 2, 3]] * 2, SCORES, LABELS), r"boxes have shape \[2, 3\], expected \[D, 4\]"),
        ((BOXES, SCORES, [1]), r"labels have shape \[1\], expected \[D\]"),
        ((BOXES, SCORES, [1.0, 1.5]), r"labels such as 1\.0, expected whole numbers from 1"),
    ],
)
def test_other_forms_are_refused(found: object, text: str):
    with pytest.raises(ValueError, match=text):
        black_box(lambda images: [found])(torch.rand(1, 3, SIZE, SIZE))


def test_it_has_to_speak_of_every_image():
    with pytest.raises(ValueError, match=r"bright: expected a list with what was found in each of 2 images, got 1"):
        black_box(lambda images: [(BOXES, SCORES, LABELS)])(torch.rand(2, 3, SIZE, SIZE))


def test_a_function_may_write_into_what_it_is_given():
    batch, before = scene(), scene().images

    def normalising(images):
        images.sub_(0.5).div_(0.2)
        return bright_boxes(images * 0.2 + 0.5)

    assert len(black_box(normalising)(batch.images)) == 3
    assert torch.equal(batch.images, before)


def test_an_error_of_the_function_is_its_own():
    def down(images):
        raise ConnectionError("the service is down")

    with pytest.raises(InputError, match="bright: it raised ConnectionError: the service is down"):
        black_box(down)(scene().images)


def test_gradients_are_refused_with_what_to_do_instead():
    batch = scene()
    with pytest.raises(TypeError, match=r"BlackBox offers its detections alone, .* such as square_detections"):
        PGD(total, BALL, 1, "2/255")(
            DetectorVictim(black_box()), batch.images, batch.targets, image_generators(0, "abc")
        )


def test_a_suite_of_queries_and_noise_finds_what_gradients_cannot(tmp_path):
    attacks = {"clean": None, "noise": Noise(BALL), "square": Square(APSurrogate(), BALL, queries=60)}
    assert [attack.needs for attack in attacks.values() if attack] == ["detections", "detections"]
    detector, batch = black_box(), scene()
    assert offers(detector) == "detections"
    suite = SuiteEvaluator(attacks, {}, tmp_path, {}, left_out={"pgd": "no losses"})
    suite.evaluate_batch(detector, batch)
    records = {one.attack: one for one in suite.records(VocMetric(2), RUN, describe_environment("cpu"), ["a", "b"])}
    assert records["clean"].map == 1
    assert records["square"].map < records["noise"].map
    assert records["square"].clean_losses == records["square"].gradients == {}
    assert records["square"].loss_rose.keys() == {"objective"}
    assert not records["clean"].flags
    assert not [flag for flag in records["square"].flags if "gradient" in flag or "repeat" in flag]
    assert records["worst_case"].left_out == {"pgd": "no losses"}


def test_what_is_left_out_is_said_where_there_is_no_worst_case(tmp_path):
    suite = SuiteEvaluator({"clean": None}, {}, tmp_path, {}, left_out={"pgd": "no losses"})
    suite.evaluate_batch(black_box(), scene())
    (record,) = suite.records(VocMetric(2), RUN, describe_environment("cpu"), ["a", "b"])
    assert record.left_out == {"pgd": "no losses"}
