"""Detectors that only seem robust, because an attack's gradient says nothing, are flagged; honest ones are not."""

from dataclasses import replace

import pytest
import torch

from robustdet.attacks import APGD, PGD, Adaptive, LInf, Noise, Square
from robustdet.attacks.adaptive import uniform
from robustdet.attacks.noise import GaussianNoise
from robustdet.attacks.objectives import total
from robustdet.attacks.own_predictions import OwnPredictions
from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.metric import VocMetric
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.types import DetectionLosses
from tests.evaluation.quadrants import (
    QuadrantDetector,
    RoutedPredictions,
    RoutedQuadrantDetector,
    quadrant_batches,
)
from tests.evaluation.test_pipeline import CLASSES, RUN

EPSILON = "40/255"


def ball(epsilon=EPSILON):
    return {"threat": {"epsilon": epsilon}}


SETTINGS = {
    "pgd_1": {"kind": "pgd", "steps": 1, **ball()},
    "pgd_10": {"kind": "pgd", "steps": 10, **ball()},
    "eps_0": {"kind": "apgd", **ball("0/255")},
    "eps_20": {"kind": "apgd", **ball("20/255")},
    "eps_40": {"kind": "apgd", **ball()},
    "eps_255": {"kind": "apgd", **ball("255/255")},
    "noise": {"kind": "noise", **ball()},
    "square": {"kind": "square", **ball()},
    "own": {"kind": "aimed", "objective": {"_target_": "OwnPredictions", "objective": "total"}, **ball()},
    "annotated": {"kind": "aimed", "objective": "total", **ball()},
    "fine": {"kind": "fine", **ball()},
    "gaussian": {"kind": "gaussian"},
}


def attack(kind, threat=None, steps=10, objective=None):
    inside = LInf("0" if threat is None else threat["epsilon"])
    return {
        "pgd": PGD(total, inside, steps=steps, step_size="10/255"),
        "apgd": APGD(total, inside, steps=10, starts=["clean"]),
        "noise": Noise(inside, "sign"),
        "square": Square(total, inside, queries=60),
        "aimed": PGD(total if objective == "total" else OwnPredictions(total, 0.5), inside, steps, "10/255"),
        "fine": PGD(total, inside, steps=1, step_size="0.4/255"),
        "gaussian": GaussianNoise("60/255"),
    }[kind]


class Rounding(QuadrantDetector):
    """Sees 32 levels; the derivative of rounding is zero wherever there is one."""

    def forward(self, images, generator=None):
        return super().forward((images * 32).round() / 32)


class Detached(QuadrantDetector):
    """Cuts the image off: no attack can even ask for a gradient."""

    def forward(self, images, generator=None):
        return super().forward(images.detach())


class TurnedRound(torch.autograd.Function):
    """Changes nothing; its backward pass says the opposite of the left half of the image."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(torch.arange(gradient.shape[-1]) < gradient.shape[-1] // 2, -gradient, gradient)


class WrongBackward(QuadrantDetector):
    """Attacks hide half of the objects and polish the others."""

    def forward(self, images, generator=None):
        return super().forward(TurnedRound.apply(images))


class BelowEightBits(QuadrantDetector):
    """Sees what a file cannot hold, a hundred times magnified."""

    def forward(self, images, generator=None):
        on_file = (images * 255).round() / 255
        return super().forward(images + 100 * (images - on_file))


class KnowsTheGrid(Rounding):
    """Has learnt that attacks move pixels by whole levels, and nothing of images that are off the grid."""

    def forward(self, images, generator=None):
        raw = super().forward(images)
        off = ((images * 255 - (images * 255).round()).abs() > 0.01).float().mean(dim=(1, 2, 3)) > 0.5
        return replace(raw, cls_logits=torch.where(off[:, None, None], -raw.cls_logits, raw.cls_logits))


class KnowsTheAnnotations(QuadrantDetector):
    """Its loss leaves out the objects of images that it knows by name."""

    def assign(self, targets):
        known = torch.tensor([target.image_id.startswith("image") for target in targets])
        assignment = super().assign(targets)
        return replace(assignment, regression_targets=assignment.regression_targets + 1e-6 * known[:, None, None])

    def losses(self, raw, assignment):
        each, positive = self.box_losses(raw, assignment), assignment.labels > 0
        out = positive & (assignment.regression_targets > 0).any(dim=2)
        return DetectionLosses(each.cross_entropy.where(~out, 0).sum(1), each.localization.sum(1), positive.sum(1))


class Randomised(QuadrantDetector):
    """Sees other images each time."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images, generator=None):
        return super().forward(images + 0.05 * torch.randn(images.shape, generator=self.generator))


class RoutedByRoughness(QuadrantDetector):
    """A discriminator sends images whose neighbouring pixels differ much to a kernel that sees objects upside down."""

    detached = False

    def forward(self, images, generator=None, routing=None):
        raw = super().forward(images)
        if routing is None:
            rough = (images[..., 1:] - images[..., :-1]).square().mean(dim=(1, 2, 3))
            upside_down = rough / (rough + 0.5)
            routing = torch.stack([upside_down, 1 - upside_down], dim=1)
            routing = routing.detach() if self.detached else routing
        sign = 1 - 2 * routing[:, 0]
        return RoutedPredictions(raw.cls_logits * sign[:, None, None], raw.bbox_regression, raw.default_boxes, routing)


class RoutedByHidden(RoutedByRoughness):
    detached = True


def flags_of(detector, folder, adaptive=False):
    attacks = {"clean": None, **{name: attack(**fields) for name, fields in SETTINGS.items()}}
    settings = dict(SETTINGS)
    if adaptive:
        attacks["aid_uniform"], settings["aid_uniform"] = Adaptive(attacks["pgd_10"], uniform), {"kind": "adaptive"}
    suite = SuiteEvaluator(attacks, settings, folder, {})
    for batch in quadrant_batches(30, 30):
        suite.evaluate_batch(detector.eval(), batch)
    records = suite.records(VocMetric(3), RUN, describe_environment("cpu"), CLASSES)
    return {record.attack: [flag.partition(":")[0] for flag in record.flags] for record in records}


@pytest.mark.parametrize("routed", [False, True])
def test_an_honest_detector_has_no_flag(routed, tmp_path):
    detector = RoutedQuadrantDetector() if routed else QuadrantDetector()
    flags = flags_of(detector, tmp_path, adaptive=routed)
    assert flags == {name: [] for name in flags}
    assert list(flags) == ["clean", *SETTINGS, *(["aid_uniform"] if routed else []), "worst_case"]


def test_rounding_of_the_input_is_flagged(tmp_path):
    flags = flags_of(Rounding(), tmp_path)
    assert all("no_gradient" in of_attack for of_attack in flags.values())
    assert "loss_not_raised" in flags["pgd_10"]
    assert "survives_any_change" in flags["eps_255"]
    beaten = [name for name, of_attack in flags.items() if "beaten_by_black_box" in of_attack]
    assert len(beaten) == 1
    assert "loss_beaten_by_black_box" in flags[beaten[0]]


@pytest.mark.slow
def test_a_detector_without_any_gradient_is_evaluated_and_flagged(tmp_path):
    flags = flags_of(Detached(), tmp_path)
    assert all("no_gradient" in of_attack for of_attack in flags.values())
    for name in ("pgd_1", "pgd_10", "eps_20", "eps_40", "eps_255"):
        assert "loss_not_raised" in flags[name]
    assert "survives_any_change" in flags["eps_255"]
    assert any("beaten_by_black_box" in of_attack for of_attack in flags.values())  # Square runs and finds it out


def names(flags, name):
    """The attacks that carry the flag."""
    return [attack for attack, of_attack in flags.items() if name in of_attack]


@pytest.mark.slow
def test_a_wrong_backward_pass_is_flagged(tmp_path):
    flags = flags_of(WrongBackward(), tmp_path)
    assert {"clean", "noise", "pgd_1", "fine"} <= set(names(flags, "gradient_wrong"))
    assert not names(flags, "no_gradient")
    assert not names(flags, "lost_in_rounding")


@pytest.mark.slow
def test_what_lives_below_eight_bits_is_flagged(tmp_path):
    flags = flags_of(BelowEightBits(), tmp_path)
    assert "fine" in names(flags, "lost_in_rounding")
    assert "clean" not in names(flags, "lost_in_rounding")  # those are on the grid


@pytest.mark.slow
def test_a_signature_of_attacks_is_flagged(tmp_path):
    assert len(names(flags_of(KnowsTheGrid(), tmp_path), "beaten_by_the_unseen")) == 1


@pytest.mark.slow
def test_a_loss_that_knows_the_annotations_is_flagged(tmp_path):
    flags = flags_of(KnowsTheAnnotations(), tmp_path)
    assert names(flags, "beaten_by_own_predictions") == ["annotated"]


@pytest.mark.slow
def test_a_random_forward_pass_is_flagged(tmp_path):
    flags = flags_of(Randomised(), tmp_path)
    assert all("random_forward" in of_attack for of_attack in flags.values())
    assert "differs_at_zero" in flags["eps_0"]


@pytest.mark.slow
def test_a_discriminator_without_a_gradient_is_flagged(tmp_path):
    honest, hidden = (flags_of(kind(), tmp_path / kind.__name__) for kind in (RoutedByRoughness, RoutedByHidden))
    del honest["eps_255"]  # makes images of one colour, where roughness has no slope
    assert not any("no_routing_gradient" in of_attack for of_attack in honest.values())
    assert all("no_routing_gradient" in of_attack for of_attack in hidden.values())


@pytest.mark.slow
def test_a_single_kernel_has_nothing_to_route(tmp_path):
    class OneKernel(QuadrantDetector):
        def forward(self, images, generator=None):
            raw = super().forward(images)
            alone = images.mean(dim=(1, 2, 3))[:, None].softmax(dim=1)
            return RoutedPredictions(raw.cls_logits, raw.bbox_regression, raw.default_boxes, alone)

    flags = flags_of(OneKernel(), tmp_path)
    assert flags == {name: [] for name in flags}
