import pytest
import torch

from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf
from robustdet.attacks.tog import Mislabelling, fabrication, vanishing, wrong_labels
from robustdet.attacks.victim import DetectorVictim
from tests.attacks import fakes

THREAT = LInf("16/255")


def generators() -> list[torch.Generator]:
    return image_generators(0, ["two", "one", "none"])


@pytest.fixture
def scene():
    images, targets = fakes.batch()
    return DetectorVictim(fakes.detector()), images, targets


def probabilities(victim, images) -> torch.Tensor:
    with victim.borrow(fakes.batch()[1]) as model, torch.no_grad():
        return model.predict(images).cls_logits.softmax(dim=-1)


def num_confident(victim, images) -> int:
    return int((probabilities(victim, images)[..., 1:].amax(dim=-1) > 0.5).sum())


def test_the_objectives_are_sums_over_all_default_boxes(scene):
    victim, images, targets = scene
    expected = [sum(float(box[0].log()) for box in image) for image in probabilities(victim, images)]
    with victim.borrow(targets) as model:
        assert vanishing(model, images).tolist() == pytest.approx(expected, rel=1e-4)
        assert torch.equal(fabrication(model, images), -vanishing(model, images))


def test_vanishing_leaves_fewer_confident_boxes_and_fabrication_more(scene):
    victim, images, targets = scene
    fewer, more = (
        PGD(objective, THREAT, 20, "2/255", random_start=True)(victim, images, targets, generators())
        for objective in (vanishing, fabrication)
    )
    assert num_confident(victim, fewer) < num_confident(victim, images) < num_confident(victim, more)


@pytest.mark.parametrize("wrong", ["most_likely", "least_likely"])
def test_a_wrong_label_is_one_an_object_and_never_the_true_one(scene, wrong):
    victim, images, targets = scene
    log_probabilities = probabilities(victim, images).log()
    with victim.borrow(targets) as model:
        chosen = wrong_labels(log_probabilities, model, likely=wrong == "most_likely")
        assignment = model.assignment
    for i, target in enumerate(target.learnable for target in targets):
        assert (chosen[i, assignment.labels[i] == 0] == 0).all()
        for j, true in enumerate(target.labels.tolist()):
            boxes = (assignment.objects[i] == j).nonzero()[:, 0].tolist()
            score = {c: sum(float(log_probabilities[i, b, c]) for b in boxes) for c in range(1, 6) if c != true}
            expected = (max if wrong == "most_likely" else min)(score, key=score.get)
            assert {int(chosen[i, b]) for b in boxes} == {expected}


@pytest.mark.parametrize("wrong", ["most_likely", "least_likely"])
def test_mislabelling_names_objects_wrongly_but_finds_them(scene, wrong):
    victim, images, targets = scene
    with victim.borrow(targets) as model, torch.no_grad():
        labels = wrong_labels(model.predict(images).cls_logits.log_softmax(-1), model, likely=wrong == "most_likely")

    def named_wrongly(model, x):
        return (model.predict(x).cls_logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0] * (labels > 0)).sum(1)

    attacked = PGD(Mislabelling(wrong), THREAT, 30, "2/255")(victim, images, targets, generators())
    careless = PGD(named_wrongly, THREAT, 30, "2/255")(victim, images, targets, generators())
    with victim.borrow(targets) as model, torch.no_grad():
        assert (named_wrongly(model, attacked) > named_wrongly(model, images))[:2].all()
        located, displaced = (model.losses(x).localization.sum() for x in (attacked, careless))
    assert located < displaced


def test_a_choice_that_does_not_exist_is_named():
    with pytest.raises(Exception, match="random"):
        Mislabelling("random")


def test_one_class_has_no_wrong_one(scene):
    victim, _, targets = scene
    with (
        victim.borrow(targets) as model,
        pytest.raises(ValueError, match="two classes or more to have a wrong one among them; the victim has 1"),
    ):
        wrong_labels(torch.zeros(3, 16, 2), model, likely=True)


def test_a_victim_of_losses_alone_is_refused():
    images, _ = fakes.batch()
    with pytest.raises(
        TypeError, match=r"TOG needs a victim .* that says how sure it is of every .*: got ConvexVictim"
    ):
        vanishing(fakes.ConvexVictim(), images)
