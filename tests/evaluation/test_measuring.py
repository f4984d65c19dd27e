"""What is measured of real detectors whose predictions are not finite: it is counted, flagged, and never an error."""

import pytest
import torch

from robustdet.attacks import DAG, MTD, PGD, DAGAuthors, LInf, Noise, Square
from robustdet.attacks.objectives import a_cls, total
from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.measuring import measure, noise
from robustdet.evaluation.metric import VocMetric
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.types import Batch
from tests.detection.conftest import build_detector
from tests.evaluation.records import RUN
from tests.evaluation.scenes import target

DETECTORS = ["tiny_ssd", "tiny_robust_ssd_cfr"]
CLASSES = [f"class{label}" for label in range(1, 21)]
BALL = LInf("8/255")


def batch(num_images=3):
    images = 0.8 * torch.rand(num_images, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    return Batch(
        images, [target(f"image{n}", [20, 20, 60, 70], [n % 3 + 1], original_size=(96, 96)) for n in range(num_images)]
    )


def overflowing_on_white(name):
    """Its first layer is fine for all images but bright ones."""
    detector = build_detector(name).eval()

    def overflow(module, inputs, output):
        bright = (inputs[0].mean(dim=(1, 2, 3)) > 0.9)[:, None, None, None]
        return torch.where(bright, float("inf"), output)

    detector.normalisation.register_forward_hook(overflow)
    return detector


@pytest.mark.parametrize("name", DETECTORS)
def test_one_image_that_is_not_finite_does_not_spoil_its_neighbours(name):
    detector, clean = overflowing_on_white(name), batch()
    sound = measure(detector, PGD(total, BALL, 1, "2/255"), clean, clean.images)
    clean.images[1] = 1.0
    found, measures = measure(detector, PGD(total, BALL, 1, "2/255"), clean, clean.images)
    assert [one["finite"] for one in measures] == [1.0, 0.0, 1.0]
    assert found[1].boxes.shape == (0, 4)
    for row in (0, 2):
        assert torch.equal(found[row].boxes, sound[0][row].boxes)
        assert measures[row] == pytest.approx(sound[1][row], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("value", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_broken_detector_is_evaluated_and_flagged(name, value, tmp_path):
    detector = build_detector(name).eval()
    with torch.no_grad():
        next(p for n, p in detector.classification_head.named_parameters() if n.endswith("bias")).fill_(value)
    attacks = {
        "clean": None,
        "noise": Noise(BALL),
        "pgd": PGD(a_cls, BALL, 2, "4/255"),
        "mtd": MTD(BALL, 2, "4/255"),
        "dag": DAG(BALL, 2, "4/255"),
        "square": Square(total, BALL, queries=2),
    }
    suite = SuiteEvaluator(attacks, {}, tmp_path, {})
    suite.evaluate_batch(detector, batch(2))
    records = suite.records(VocMetric(20), RUN, describe_environment("cpu"), CLASSES)
    assert [record.attack for record in records] == [*attacks, "worst_case"]
    for record in records:
        assert record.map == 0.0
        flag = "not_finite: NaN or infinity in pixels, predictions or loss (in 2 of 2 images, such as image0)"
        assert flag in record.flags


def test_noise_is_of_the_size_of_the_attack_and_the_same_for_all():
    clean = batch(3)
    attacked = clean.images.clone()
    attacked[0, 0, 0, 0] += 8 / 255
    attacked[2] -= 0.02
    attacked[2].clamp_(0, 1)
    made = noise(clean, attacked)
    change = (made - clean.images).abs().amax(dim=(1, 2, 3))
    assert change.tolist() == pytest.approx([8 / 255, 0, 0.02], abs=1e-6)
    assert ((made[0] > clean.images[0]).float().mean() - 0.5).abs() < 0.02
    one = Batch(clean.images[2:], clean.targets[2:])
    assert torch.equal(noise(one, attacked[2:])[0], made[2])
    assert bool(((made >= 0) & (made <= 1)).all())


def test_noise_is_measured_for_what_asks_the_victim():
    detector, clean = build_detector("tiny_ssd").eval(), batch()

    def names(attack):
        return {key for key in measure(detector, attack, clean, clean.images)[1][0] if key.endswith("_noise")}

    losses = {"classification_noise", "localization_noise"}
    assert names(None) == names(Noise(BALL)) == set()
    assert names(DAGAuthors()) == losses  # it has no one objective
    assert names(PGD(total, BALL, 1, "2/255")) == names(Square(total, BALL, 1)) == losses | {"objective_noise"}
    _, measures = measure(detector, PGD(total, BALL, 1, "2/255"), clean, clean.images)  # unchanged: noise of size 0
    for one in measures:
        assert one["classification_noise"] == one["classification"]
        assert one["objective_noise"] == one["objective_clean"]
