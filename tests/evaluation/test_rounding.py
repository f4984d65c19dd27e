import torch

from robustdet.evaluation.average_precision import match_detections
from robustdet.evaluation.checks import lost_in_rounding
from robustdet.evaluation.rounding import detections_8bit
from tests.evaluation.quadrants import QuadrantDetector, quadrant_batches
from tests.evaluation.scenes import detections, target

BOX = [0, 0, 10, 10]


def matched(found, of=40):
    """The object of ``found`` of the images is detected."""
    hit, miss = detections([BOX], [0.9], [1]), detections([], [], [])
    one = target("a", [BOX], [1])
    return {f"image{n}": match_detections(hit if n < found else miss, one) for n in range(of)}


def test_a_change_of_half_a_point_or_of_chance_is_no_loss():
    assert lost_in_rounding(0.5, 0.5049, matched(20), matched(30)) is None  # as the metric has it
    assert lost_in_rounding(0.5, 0.525, matched(20), matched(21)) is None  # one image
    assert lost_in_rounding(0.5, 0.75, matched(1, of=1), matched(0, of=1)) is None


def test_a_clear_change_is_one_whatever_its_direction():
    text = "lost_in_rounding: 50.0 mAP become 75.0 when the images are saved in 8 bits"
    assert lost_in_rounding(0.5, 0.75, matched(20), matched(30)) == text
    text = "lost_in_rounding: 75.0 mAP become 50.0 when the images are saved in 8 bits"
    assert lost_in_rounding(0.75, 0.5, matched(30), matched(20)) == text


def test_detections_are_those_of_the_image_in_a_file():
    (batch,) = quadrant_batches(3, 3)
    detector = QuadrantDetector().eval()
    moved = batch.images + 0.3 / 255
    found = detections_8bit(detector, moved)
    as_file = (moved * 255 + 0.5).floor().byte().float() / 255  # rounding half up, as an image library does
    with torch.no_grad():
        expected = detector.detect(detector(as_file))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.scores, other.scores)
    with torch.no_grad():
        assert not torch.equal(found[0].scores, detector.detect(detector(moved))[0].scores)
