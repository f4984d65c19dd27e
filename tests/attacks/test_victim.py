import pytest
import torch
from torch import nn

from robustdet.attacks.victim import (
    BorrowedDetector,
    DetachedError,
    DetectorVictim,
    evaluation_mode,
    input_gradient,
    require_scores,
)
from robustdet.types import BorrowedVictim, Victim
from tests.attacks import fakes


def test_a_borrowed_detector_speaks_the_vocabulary():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    victim = DetectorVictim(detector)
    assert isinstance(victim, Victim)
    with victim.borrow(targets) as model:
        assert isinstance(model, BorrowedDetector)
        assert torch.equal(model.losses(images).total, model.losses_of(model.predict(images)).total)
        assert torch.equal(
            model.box_losses_of(model.predict(images)).localization.sum(1), model.losses(images).localization
        )
        assert torch.equal(model.assignment.labels, detector.assign(targets).labels)


def test_inside_the_model_is_still_and_frozen():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    with DetectorVictim(detector).borrow(targets) as model:
        assert not any(module.training for module in detector.modules())
        assert not any(parameter.requires_grad for parameter in detector.parameters())
        assert torch.equal(model.losses(images).total, model.losses(images).total)


def test_targets_are_matched_once(monkeypatch):
    detector, (images, targets) = fakes.detector(), fakes.batch()
    calls, assign = [], detector.assign
    monkeypatch.setattr(detector, "assign", lambda targets: calls.append(1) or assign(targets))
    with DetectorVictim(detector).borrow(targets) as model:
        model.losses(images)
        model.losses(images)
    assert len(calls) == 1


def test_a_failing_assignment_gives_the_model_back(monkeypatch):
    detector, (_, targets) = fakes.detector(), fakes.batch()
    before = fakes.state(detector)
    monkeypatch.setattr(detector, "assign", lambda targets: 1 / 0)
    with pytest.raises(ZeroDivisionError), DetectorVictim(detector).borrow(targets):
        pass
    monkeypatch.undo()
    assert fakes.state(detector) == before


def test_what_a_model_changes_in_evaluation_mode_is_undone():
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("latest", torch.zeros(2))

        def forward(self, x):
            self.calls += 1
            self.latest = torch.rand(2)
            return x

    model = Restless()
    before, kept = fakes.state(model), model.latest
    with evaluation_mode(model):
        model(torch.zeros(1))
        assert model.calls == 1
    assert fakes.state(model) == before
    assert model.latest is kept


def test_a_graph_from_before_the_attack_still_has_its_backward():
    detector, (images, targets) = fakes.detector().eval(), fakes.batch()
    loss = detector.losses(detector(images), detector.assign(targets)).total.sum()
    with DetectorVictim(detector).borrow(targets) as model:
        model.losses(images)
    loss.backward()
    assert detector.backbone[0].weight.grad.abs().sum() > 0


def test_the_attack_runs_in_full_precision():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    with torch.autocast("cpu", torch.bfloat16), DetectorVictim(detector).borrow(targets) as model:
        assert model.predict(images).cls_logits.dtype == torch.float32


def test_inference_mode_is_refused_with_the_setting_to_change():
    detector, (_, targets) = fakes.detector(), fakes.batch()
    with (
        torch.inference_mode(),
        pytest.raises(RuntimeError, match=r"inference mode forbids them: set `inference_mode: false` for the trainer"),
        DetectorVictim(detector).borrow(targets),
    ):
        pass


def test_only_a_module_can_be_borrowed():
    class Plain:
        num_classes = input_size = training = 0
        __call__ = assign = losses = localization = box_losses = overlaps = detect = fakes.FakeDetector.forward

    with pytest.raises(TypeError, match=r"expected a detector that is a torch.nn.Module, got Plain"):
        DetectorVictim(Plain())


def test_the_input_gradient_is_the_derivative_and_reaches_nothing_else():
    detector, (images, targets) = fakes.detector().double(), fakes.batch()
    images = images.double().requires_grad_()
    grads = [parameter.grad for parameter in detector.parameters()]
    with DetectorVictim(detector).borrow(targets) as model:
        gradient = input_gradient(model.losses(images).total, images)
        shift = torch.zeros_like(images)
        shift[0, 1, 2, 3] = 1e-6
        with torch.no_grad():
            slope = (model.losses(images + shift).total - model.losses(images - shift).total)[0] / 2e-6
    assert gradient[0, 1, 2, 3].item() == pytest.approx(slope.item(), rel=1e-4)
    assert images.grad is None
    assert all(now is then for now, then in zip([p.grad for p in detector.parameters()], grads, strict=True))


def test_a_detached_gradient_is_an_error_and_no_silent_zero():
    images, _ = fakes.batch()
    cut_and_begun_anew = images.detach().requires_grad_().sum(dim=(1, 2, 3))
    for values in (torch.zeros(3), cut_and_begun_anew):
        with pytest.raises(DetachedError, match="does not depend on the images: the victim detached its gradient"):
            input_gradient(values, images.requires_grad_())


def test_an_attack_says_what_a_victim_lacks():
    victim = fakes.ConvexVictim()
    assert isinstance(victim, BorrowedVictim)
    text = r"DAG needs a victim \(DetectorVictim\) that says how sure it is of every default .*: got ConvexVictim"
    with pytest.raises(TypeError, match=text):
        require_scores(victim, "DAG")
