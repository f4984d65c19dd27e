import pytest
import torch

from robustdet.attacks.dag import DAG, scaled_to, wrong_label
from robustdet.attacks.dag_authors import DAGAuthors
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf, PixelRange
from robustdet.attacks.victim import DetectorVictim
from tests.attacks import fakes

GAMMA = 0.5 / 255


def generators(*names: str) -> list[torch.Generator]:
    return image_generators(0, names or ["two", "one", "none"])


@pytest.mark.parametrize(("first", "end"), [(1, 3), (1, 21), (0, 21), (0, 2)])
def test_wrong_labels_are_never_true_and_reach_every_other_label(first, end):
    true = torch.randint(first, end, (4, 5000))
    wrong = wrong_label(true, torch.randint(2**31, true.shape), first, end)
    assert (wrong != true).all()
    for label in range(first, end):
        others = sorted(set(range(first, end)) - {label})
        counts = torch.bincount(wrong[true == label], minlength=end)
        assert sorted(counts.nonzero().flatten().tolist()) == others
        assert counts[others].double().div(counts.sum()).tolist() == pytest.approx(
            [1 / len(others)] * len(others), abs=0.06
        )


def test_a_single_class_has_no_wrong_label():
    with pytest.raises(ValueError, match=r"DAG needs two labels or more .* the victim has 1"):
        wrong_label(torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long), 1, 2)


def test_a_zero_gradient_stays_zero_and_every_image_has_its_own_scale():
    gradient = torch.randn(3, 3, 4, 4) * torch.tensor([1e-12, 1e3, 0.0]).view(3, 1, 1, 1)
    assert scaled_to(0.25, gradient).abs().amax(dim=(1, 2, 3)).tolist() == pytest.approx([0.25, 0.25, 0.0])


def slow_dag(detector, image, target, generator, steps: int, threat=None) -> tuple[torch.Tensor, int]:
    """The algorithm as the paper writes it, a box at a time; also the steps that it took."""
    detector.eval()
    true = detector.assign([target]).labels[0].tolist()
    draws = torch.randint(2**31, (len(true),), generator=generator)
    wrong = wrong_label(torch.tensor([true]), draws[None], 1, fakes.CLASSES + 1)[0].tolist()
    x = image[None].clone()
    for step in range(steps):
        x.requires_grad_()
        logits = detector(x).cls_logits[0]
        active = [p for p, label in enumerate(true) if label > 0 and int(logits[p].argmax()) == label]
        if not active:
            return x.detach(), step
        value = sum(logits[p, wrong[p]] - logits[p, true[p]] for p in active)
        (gradient,) = torch.autograd.grad(value, x)
        x = (x + GAMMA * gradient / gradient.abs().max()).detach().clamp(0, 1)
        if threat is not None:
            x = threat.project(x, image[None])
    return x.detach(), steps


@pytest.mark.parametrize("threat", [PixelRange(), LInf("8/255")])
def test_dag_does_what_a_slow_loop_does(threat):
    detector, (images, targets) = fakes.detector(), fakes.batch()
    ours = DAG(threat, steps=40)(DetectorVictim(detector), images, targets, generators())
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        expected, _ = slow_dag(detector, image, target, generators(target.image_id)[0], 40, threat)
        torch.testing.assert_close(ours[i : i + 1], expected, rtol=0, atol=1e-5)


def test_dag_accumulates_until_no_default_box_finds_its_object():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    victim = DetectorVictim(detector)
    attacked = DAG(PixelRange(), steps=600)(victim, images, targets, generators())
    with victim.borrow(targets) as model, torch.no_grad():
        labels = model.assignment.labels
        right = [((model.predict(x).cls_logits.argmax(-1) == labels) & (labels > 0)).any(1) for x in (images, attacked)]
    assert right[0].tolist() == [True, True, False]
    assert right[1].tolist() == [False, False, False]
    assert torch.equal(attacked[2], images[2])


def test_dag_answers_for_the_targets_that_are_left():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    victim, attack = DetectorVictim(detector), DAG(PixelRange(), steps=600)
    attacked = attack(victim, images, targets, generators())
    with victim.borrow(targets) as model, torch.no_grad():
        before, after = (attack.objective(model, x).tolist() for x in (images, attacked))
        logits, labels = model.predict(images).cls_logits, model.assignment.labels
    for value, of_boxes, true in zip(before, logits.tolist(), labels.tolist(), strict=True):
        assert -value == sum(row.index(max(row)) == label > 0 for row, label in zip(of_boxes, true, strict=True))
    assert after == [attack.objective_bound] * 3


def test_an_image_that_is_done_is_not_asked_again():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    expected = [
        slow_dag(detector, image, target, generators(target.image_id)[0], 600)[1] + 1
        for image, target in zip(images, targets, strict=True)
    ]
    asked = []
    detector.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
    DAG(PixelRange(), steps=600)(DetectorVictim(detector), images, targets, generators())
    assert expected[0] != expected[1]
    assert expected[2] == 1
    assert asked == [sum(steps > k for steps in expected) for k in range(max(expected))]


def slow_authors(detector, image, target, generator, steps: int) -> torch.Tensor:
    detector.eval()
    true = detector.assign([target]).labels[0]
    draws = torch.randint(2**31, true.shape, generator=generator)
    wrong = wrong_label(true[None], draws[None], 0, fakes.CLASSES + 1)[0]
    perturbations = [torch.zeros_like(image[None])]
    for _ in range(steps):
        x = (image + perturbations[-1]).clamp(0, 1).requires_grad_()
        logits = detector(x).cls_logits[0]
        loss = torch.nn.functional.cross_entropy
        value = sum(
            loss(logits[p], true[p]) - loss(logits[p], wrong[p])
            for p in range(len(true))
            if logits[p].argmax() != wrong[p]
        )
        (gradient,) = torch.autograd.grad(value, x)
        perturbations.append(GAMMA * gradient / gradient.abs().max())
    return (image + sum(perturbations)).clamp(0, 1)


def test_the_authors_dag_does_what_a_slow_loop_does():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    ours = DAGAuthors(steps=10)(DetectorVictim(detector), images, targets, generators())
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        expected = slow_authors(detector, image, target, generators(target.image_id)[0], 10)
        torch.testing.assert_close(ours[i : i + 1], expected, rtol=0, atol=1e-5)


def test_the_authors_dag_is_finite_when_no_target_is_left():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    true = detector.assign(targets).labels
    draws = torch.randint(2**31, (true.shape[1],), generator=generators("none")[0])
    wrong = wrong_label(true[2:], draws[None], 0, fakes.CLASSES + 1)[0]
    # a detector that says the wrong labels of the last image whatever it sees
    said = torch.nn.functional.one_hot(wrong, fakes.CLASSES + 1).float() * 100

    class Fooled(fakes.FakeDetector):
        def forward(self, images, generator=None):
            raw = super().forward(images)
            return type(raw)(raw.cls_logits * 1e-3 + said, raw.bbox_regression, raw.default_boxes)

    attacked = DAGAuthors(steps=3)(DetectorVictim(Fooled()), images[2:], targets[2:], generators("none"))
    assert torch.equal(attacked, images[2:])


@pytest.mark.parametrize("attack", [DAG(PixelRange()), DAGAuthors()])
def test_a_victim_without_default_boxes_is_refused(attack):
    images, targets = fakes.batch()
    with pytest.raises(
        TypeError, match=r"DAG needs a victim .* that says how sure it is of every .*: got ConvexVictim"
    ):
        attack(fakes.ConvexVictim(), images, targets, generators())
