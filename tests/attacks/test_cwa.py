import pytest
import torch

from robustdet.attacks.cwa import ClassWise, class_wise_over_boxes
from robustdet.attacks.victim import DetectorVictim
from robustdet.types import Assignment
from tests.attacks import fakes


@pytest.fixture
def crowded():
    """Images with several objects of a class, a hidden object, a difficult one, and none at all."""
    images, _ = fakes.batch()
    boxes = [[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]]
    targets = [
        fakes.target("balanced", boxes, [1, 1, 1, 2]),
        # the first object's only default box also lies in the second, which comes later and takes it
        fakes.target("hidden", [[0, 0, 4, 4], [0, 0, 8, 8], [8, 8, 16, 16]], [3, 4, 5], [False, False, True]),
        fakes.target("none", [], []),
    ]
    return DetectorVictim(fakes.detector()), images, targets


def mean(values):
    return sum(values) / len(values) if values else 0.0


def slow_objects(losses, assignment: Assignment, targets, clip: float) -> list[float]:
    result = []
    for i, target in enumerate(targets):
        classes: dict[int, list[float]] = {}
        for j, label in enumerate(target.learnable.labels.tolist()):
            mine = [p for p, owner in enumerate(assignment.objects[i].tolist()) if owner == j]
            if mine:
                tasks = (
                    mean([task[i, p].item() for p in mine]) for task in (losses.cross_entropy, losses.localization)
                )
                classes.setdefault(label, []).append(sum(min(task, clip) for task in tasks))
        result.append(mean([mean(objects) for objects in classes.values()]))
    return result


def slow_boxes(losses, assignment: Assignment) -> list[float]:
    result = []
    for i, labels in enumerate(assignment.labels.tolist()):
        classes: dict[int, list[float]] = {}
        for p, label in enumerate(labels):
            if label > 0:
                classes.setdefault(label, []).append((losses.cross_entropy[i, p] + losses.localization[i, p]).item())
        result.append(mean([mean(boxes) for boxes in classes.values()]))
    return result


@pytest.mark.parametrize("clip", [0.2, 1.0, 5.0])
def test_the_objective_over_objects_is_that_of_a_slow_loop(crowded, clip):
    victim, images, targets = crowded
    with victim.borrow(targets) as model, torch.no_grad():
        ours = ClassWise(clip)(model, images)
        expected = slow_objects(model.box_losses_of(model.predict(images)), model.assignment, targets, clip)
    assert ours.tolist() == pytest.approx(expected, rel=1e-5)
    assert ours[2] == 0


def test_the_objective_over_boxes_is_that_of_a_slow_loop(crowded):
    victim, images, targets = crowded
    with victim.borrow(targets) as model, torch.no_grad():
        ours = class_wise_over_boxes(model, images)
        expected = slow_boxes(model.box_losses_of(model.predict(images)), model.assignment)
    assert ours.tolist() == pytest.approx(expected, rel=1e-5)
    assert ours[2] == 0


def test_a_lost_object_is_left_alone(crowded):
    victim, images, targets = crowded
    with victim.borrow(targets) as model:
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(ClassWise(clip=1e-3)(model, x).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(images))


@pytest.mark.parametrize("objective", [ClassWise(), class_wise_over_boxes])
def test_an_image_without_objects_has_a_gradient_of_zero(crowded, objective):
    victim, images, targets = crowded
    with victim.borrow(targets[2:]) as model:
        x = images[2:].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(model, x).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


def test_a_class_weighs_the_same_however_many_objects_it_has(crowded):
    victim, images, targets = crowded
    with victim.borrow(targets[:1]) as model, torch.no_grad():
        losses = model.box_losses_of(model.predict(images[:1]))
        mine = losses.cross_entropy + losses.localization
        label = model.assignment.labels
        expected = (mine[label == 1].mean() + mine[label == 2].mean()) / 2
        # all objects have four default boxes here, so both definitions agree as long as nothing is cut
        for objective in (ClassWise(clip=100.0), class_wise_over_boxes):
            assert objective(model, images[:1]).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_a_bound_that_is_not_positive_is_named(clip):
    with pytest.raises(ValueError, match=f"positive bound for an object's loss, got clip={clip}"):
        ClassWise(clip)


@pytest.mark.parametrize("objective", [ClassWise(), class_wise_over_boxes])
def test_a_victim_without_default_boxes_is_refused(objective):
    images, _ = fakes.batch()
    with pytest.raises(
        TypeError, match=r"CWA needs a victim .* that says how sure it is of every .*: got ConvexVictim"
    ):
        objective(fakes.ConvexVictim(), images)
