"""RobustDet and RobustDet* against the numbers of the authors' code, on weights and images that a rule makes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robustdet.attacks import MTD, PGD, DetectorVictim, LInf, image_generators
from robustdet.attacks.objectives import a_cls, a_loc
from robustdet.defences.robust_ssd import RobustPredictions, RobustSSD
from robustdet.interop.names import FROM_AUTHORS, rename
from robustdet.types import DetectionLosses, Targets
from tests.defences.conftest import golden_targets
from tests.detection.conftest import build_detector
from tests.golden_weights import golden_state_dict

GOLDEN = os.environ.get("ROBUSTDET_GOLDEN")
pytestmark = pytest.mark.skipif(GOLDEN is None, reason="ROBUSTDET_GOLDEN does not point to the golden numbers")

MEANS = [104, 117, 123]  # the authors take these from R, G, B, and show the AID the result
OVERRIDES = [
    f"normalisation.mean={MEANS}",
    "execution=grouped",  # the authors' own: the same in result, and in rounding
    "aid.input_filter={_target_: robustdet.detection.normalisation.Normalisation, mean: [104, 117, 123]}",
]


class Case:
    def __init__(self, name: str) -> None:
        folder = Path(GOLDEN or "")
        with np.load(folder / f"authors_{name}.npz") as file:
            self.theirs = dict(file)
        self.network: RobustSSD = build_detector(
            {"robust": "robust_ssd300", "cfr": "robust_ssd300_cfr"}[name],
            [*OVERRIDES, *(["cfr.log_variance_max=10.0"] if name == "cfr" else [])],
        )
        weights = golden_state_dict(folder / f"state_dict_{name}.txt")
        self.network.load_state_dict({rename(key, FROM_AUTHORS): tensor for key, tensor in weights.items()})
        self.images = torch.from_numpy(self.theirs["images"]) / 255
        with torch.no_grad():
            self.raw: RobustPredictions = self.network(self.images)

    def losses(self, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Localisation and classification: of the pair, and of each image."""
        with torch.no_grad():
            losses = self.network.losses(self.network(images), self.network.assign(golden_targets(300)))
        parts = (losses.localization, losses.classification)
        both = np.array([float(losses.per_positive(part)) for part in parts])
        return both, torch.stack([losses.each_per_positive(part) for part in parts], dim=1).numpy()


@pytest.fixture(scope="module", params=["robust", "cfr"])
def case(request: Any) -> Case:
    return Case(request.param)


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).std())


def test_routing(case: Case) -> None:
    np.testing.assert_allclose(case.raw.routing.numpy(), case.theirs["aid"], atol=1e-4, rtol=0)


def test_predictions(case: Case) -> None:
    assert_close(case.raw.cls_logits.numpy(), case.theirs["conf"])
    assert_close(case.raw.bbox_regression.numpy(), case.theirs["loc"])


def test_losses(case: Case) -> None:
    both, each = case.losses(case.images)
    np.testing.assert_allclose(both, case.theirs["loss_loc_cls_cwa"][:2], rtol=1e-3)
    np.testing.assert_allclose(each, case.theirs["loss_loc_cls_cwa_each_image"][:, :2], rtol=1e-3)


def test_consistent_features(case: Case) -> None:
    if case.network.cfr is None:
        pytest.skip("without CFR")
    with torch.no_grad():
        sampled = case.network(case.images, torch.Generator())
        recon = case.network.normalisation(case.network.reconstruct(case.raw.mean))
    for ours, name in ((sampled.mean, "mu_mean_std"), (sampled.log_variance, "logvar_mean_std")):
        np.testing.assert_allclose([float(ours.mean()), float(ours.std())], case.theirs[name], rtol=1e-3, atol=1e-4)
    assert_close(recon[:, :, ::10, ::10].numpy(), case.theirs["recon_of_mu"])


class WholePixels(LInf):
    """The ball, on whole pixel values: images, step and budget are whole, so the authors' 0..255 iterates are too.

    On [0, 1] they are whole but for a rounding error, which the random networks here are sensitive enough to blow up.
    """

    def project(self, adversarial: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return (super().project(adversarial, clean) * 255).round() / 255


class PerPositive(DetectorVictim):
    """Its losses are divided by the positives, as the authors': no sign changes but by rounding."""

    @contextmanager
    def borrow(self, targets: Targets) -> Iterator[Any]:
        with super().borrow(targets) as model:

            def losses(images: torch.Tensor) -> DetectionLosses:
                return per_positive(model.losses(images))

            yield SimpleNamespace(losses=losses, localization=lambda images: losses(images).localization)


def per_positive(losses: DetectionLosses) -> DetectionLosses:
    each = losses.each_per_positive
    ones = torch.ones_like(losses.num_positives)
    return DetectionLosses(each(losses.classification), each(losses.localization), ones)


BALL = WholePixels("8/255")
ATTACKS = {
    "cls": PGD(a_cls, BALL, steps=3, step_size="8/255"),
    "loc": PGD(a_loc, BALL, steps=3, step_size="8/255"),
    "mtd": MTD(BALL, steps=3, step_size="8/255"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_three_steps_of_the_attack(case: Case, attack: str) -> None:
    """The signs of gradients near zero differ between machines: nearly all pixels are equal, and so is the harm."""
    victim = PerPositive(case.network)
    adversarial = torch.cat(
        [
            ATTACKS[attack](victim, image[None], [target], image_generators(0, [target.image_id]))
            for image, target in zip(case.images, golden_targets(300), strict=True)
        ]
    )
    theirs = torch.from_numpy(case.theirs[f"adv3_{attack}"])
    equal = ((adversarial * 255).round() == theirs).float().mean()
    assert equal >= 0.97, f"{equal:.4f} of the pixels are equal"
    np.testing.assert_allclose(case.losses(adversarial)[0], case.theirs[f"adv3_{attack}_loss"], rtol=0.02)
