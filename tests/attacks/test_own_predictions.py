import pytest
import torch

from robustdet.attacks import PGD, DetectorVictim, LInf, image_generators
from robustdet.attacks.objectives import a_loc, prepared, total
from robustdet.attacks.outranking import Outranking
from robustdet.attacks.own_predictions import OwnPredictions, own_target
from robustdet.types import Detections, PreparedObjective
from tests.attacks import fakes


def attack(objective):
    return PGD(objective, LInf("8/255"), steps=3, step_size="4/255")


def run(objective, detector, images, targets):
    generators = image_generators(0, [target.image_id for target in targets])
    return attack(objective)(DetectorVictim(detector), images, targets, generators)


@pytest.mark.parametrize("objective", [total, a_loc, Outranking()])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 1.0])
def test_the_victims_detections_take_the_place_of_the_annotations(threshold, objective):
    detector, (images, targets) = fakes.detector(), fakes.batch()
    with torch.no_grad():
        found = detector.eval().detect(detector(images))
    own = []
    for detections, target in zip(found, targets, strict=True):
        rows = []
        for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True):
            x0, y0, x1, y1 = (min(max(side, 0.0), fakes.SIZE) for side in box.tolist())
            if x1 - x0 >= 1 and y1 - y0 >= 1 and (score >= threshold or not rows):
                rows.append(([x0, y0, x1, y1], int(label)))
        own.append(fakes.target(target.image_id, [box for box, _ in rows], [label for _, label in rows]))
    assert all(len(target.labels) == 1 for target in own) == (threshold == 1)
    expected = run(objective, detector, images, own)
    assert not torch.equal(expected, images)
    assert torch.equal(run(OwnPredictions(objective, threshold), detector, images, targets), expected)


def test_annotations_have_no_say():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    others = [fakes.target(target.image_id, [[1, 1, 15, 15]], [5]) for target in targets]
    one, other = (run(OwnPredictions(total), detector, images, t) for t in (targets, others))
    assert torch.equal(one, other)


def test_boxes_are_cut_to_the_image_and_slivers_left_out():
    found = Detections(
        torch.tensor([[3, 3, 3.5, 9], [-5.0, 2, 9, 40], [20, 3, 30, 9], [9, 9, 4, 4], [0, 0, 8, 8]]),
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2]),
        torch.tensor([1, 2, 1, 1, 1]),
    )
    for threshold in (0.3, 0.85):  # the best one is left where none reaches the threshold
        target = own_target(found, torch.zeros(3, 16, 16), threshold)
        assert target.boxes.tolist() == [[0, 2, 9, 16]]
        assert target.labels.tolist() == [2]
        assert target.learnable.boxes.tolist() == target.boxes.tolist()
    assert len(own_target(found, torch.zeros(3, 16, 16), 0.1).labels) == 2
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert len(own_target(nothing, torch.zeros(3, 16, 16), 0.3).labels) == 0


def test_it_is_an_objective_that_looks_at_clean_images_and_needs_a_detector():
    objective, (images, targets) = OwnPredictions(total), fakes.batch()
    assert isinstance(objective, PreparedObjective)
    refused = pytest.raises(TypeError, match="OwnPredictions needs a detector as its victim")
    with fakes.ConvexVictim().borrow(targets) as model, refused:
        prepared(objective, model, images)
