"""Check C14: another implementation's PGD achieves what ours does. Needs ART, which tests do not install."""

from __future__ import annotations

import pytest
import torch

from robustdet.attacks import PGD, DetectorVictim, LInf, image_generators
from robustdet.attacks.objectives import a_cls, a_loc, total
from robustdet.detection.ssd import SSD
from robustdet.errors import InputError, KindError
from robustdet.evaluation.average_precision import voc_average_precision
from robustdet.interop.art_attack import ArtPGD
from robustdet.interop.art_estimator import art_targets, as_art
from robustdet.types import Attack, Images, Target, Targets
from tests.detection.conftest import build_detector, make_target
from tests.slowness import quick

CLASSES, SIZE, IMAGES = 3, 96, 6
CLIMBED = {("classification",): a_cls, ("bbox_regression",): a_loc, ("classification", "bbox_regression"): total}


@pytest.fixture(scope="module")
def victim() -> tuple[SSD, Images, list[Target]]:
    """A detector, and images on which it is right: their objects are the two that it is surest of."""
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    torch.manual_seed(3)
    detector = build_detector("tiny_ssd", ["head_std=0.05", "background_bias=0"], num_classes=CLASSES)
    images = torch.rand(IMAGES, 3, 12, 12)
    images = torch.nn.functional.interpolate(images, (SIZE, SIZE), mode="bilinear").clamp(0, 1)
    with torch.no_grad():
        found = detector.detect(detector(images))
    targets = []
    for place, one in enumerate(found):
        boxes = one.boxes[:2].clamp(0, SIZE)
        targets.append(make_target(boxes.tolist(), one.labels[:2].tolist(), image_id=str(place)))
    return detector, images, targets


def average_precision(detector: SSD, images: Images, targets: Targets) -> float:
    with torch.no_grad():
        found = detector.detect(detector(images))
    names = [one.image_id for one in targets]
    return voc_average_precision(
        dict(zip(names, found, strict=True)), dict(zip(names, targets, strict=True)), CLASSES
    ).mean


def attacked(attack: Attack, detector: SSD, images: Images, targets: Targets) -> Images:
    return attack(DetectorVictim(detector), images, targets, image_generators(0, [one.image_id for one in targets]))


@pytest.mark.parametrize("losses", quick(CLIMBED, lambda losses: len(losses) == 1), ids="+".join)
def test_arts_pgd_agrees_with_ours(losses: tuple, victim: tuple[SSD, Images, list[Target]]):
    detector, images, targets = victim
    ours, first = (PGD(CLIMBED[losses], LInf("8/255"), steps, "2/255") for steps in (20, 1))
    theirs, their_first = (ArtPGD(losses, LInf("8/255"), steps, "2/255") for steps in (20, 1))
    one, other = (attacked(attack, detector, images, targets) for attack in (first, their_first))
    assert ((one - other).abs() < 1e-6).float().mean() > 0.999  # of gradients near 0 rounding decides the sign
    clean = average_precision(detector, images, targets)
    by_ours, by_theirs = (
        average_precision(detector, attacked(attack, detector, images, targets), targets) for attack in (ours, theirs)
    )
    assert by_ours < clean - 0.2
    assert by_theirs == pytest.approx(by_ours, abs=0.01)


def test_art_detects_what_the_detector_detects(victim: tuple[SSD, Images, list[Target]]):
    detector, images, targets = victim
    estimator = as_art(detector)
    with torch.no_grad():
        ours = detector.detect(detector(images))
    for mine, theirs in zip(ours, estimator.predict(images.numpy()), strict=True):
        assert len(theirs["labels"]) > 0
        assert set(theirs["scores"].tolist()) <= set(mine.scores.tolist())
    losses = estimator.compute_losses(images.numpy(), art_targets(targets))
    assert {key: value > 0 for key, value in losses.items()} == {"classification": True, "bbox_regression": True}
    detector.eval()


class Elsewhere:
    """A victim that is no detector of ours."""

    def borrow(self, targets):
        raise NotImplementedError


def test_losses_that_there_are_not_are_named():
    with pytest.raises(InputError, match=r"attack_losses=\['loss_classifier'\]: expected some of classification, bbox"):
        as_art(build_detector("tiny_ssd", num_classes=1), ["loss_classifier"])
    with pytest.raises(InputError, match=r"attack\.losses=\[\]: expected classification, bbox_regression or both"):
        ArtPGD([], LInf("8/255"), 1, "2/255")
    with pytest.raises(KindError, match="ART's PGD needs a detector with losses, got Elsewhere"):
        ArtPGD(["classification"], LInf("8/255"), 1, "2/255")(Elsewhere(), torch.zeros(0, 3, 8, 8), [], [])
