"""Detectors that only seem robust, because an attack's gradient says nothing, are flagged; honest ones are not."""

import pytest
import torch

from robustdet.attacks import APGD, PGD, Adaptive, LInf, Noise, Square
from robustdet.attacks.adaptive import uniform
from robustdet.attacks.objectives import total
from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.metric import VocMetric
from robustdet.evaluation.pipeline import SuiteEvaluator
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
}


def attack(kind, threat, steps=10):
    inside = LInf(threat["epsilon"])
    return {
        "pgd": PGD(total, inside, steps=steps, step_size="10/255"),
        "apgd": APGD(total, inside, steps=10, starts=["clean"]),
        "noise": Noise(inside, "sign"),
        "square": Square(total, inside, queries=60),
    }[kind]


class Rounding(QuadrantDetector):
    """Sees 32 levels; the derivative of rounding is zero wherever there is one."""

    def forward(self, images, generator=None):
        return super().forward((images * 32).round() / 32)


class Detached(QuadrantDetector):
    """Cuts the image off: no attack can even ask for a gradient."""

    def forward(self, images, generator=None):
        return super().forward(images.detach())


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
    for batch in quadrant_batches(30, 10):
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


def test_a_detector_without_any_gradient_is_evaluated_and_flagged(tmp_path):
    flags = flags_of(Detached(), tmp_path)
    assert all("no_gradient" in of_attack for of_attack in flags.values())
    for name in ("pgd_1", "pgd_10", "eps_20", "eps_40", "eps_255"):
        assert "loss_not_raised" in flags[name]
    assert "survives_any_change" in flags["eps_255"]
    assert any("beaten_by_black_box" in of_attack for of_attack in flags.values())  # Square runs and finds it out


def test_a_random_forward_pass_is_flagged(tmp_path):
    flags = flags_of(Randomised(), tmp_path)
    assert all("random_forward" in of_attack for of_attack in flags.values())
    assert "differs_at_zero" in flags["eps_0"]


def test_a_discriminator_without_a_gradient_is_flagged(tmp_path):
    honest, hidden = (flags_of(kind(), tmp_path / kind.__name__) for kind in (RoutedByRoughness, RoutedByHidden))
    del honest["eps_255"]  # makes images of one colour, where roughness has no slope
    assert not any("no_routing_gradient" in of_attack for of_attack in honest.values())
    assert all("no_routing_gradient" in of_attack for of_attack in hidden.values())


def test_a_single_kernel_has_nothing_to_route(tmp_path):
    class OneKernel(QuadrantDetector):
        def forward(self, images, generator=None):
            raw = super().forward(images)
            alone = images.mean(dim=(1, 2, 3))[:, None].softmax(dim=1)
            return RoutedPredictions(raw.cls_logits, raw.bbox_regression, raw.default_boxes, alone)

    flags = flags_of(OneKernel(), tmp_path)
    assert flags == {name: [] for name in flags}
