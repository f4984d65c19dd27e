"""The public functions, on a tiny detector without data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import robustdet
from robustdet.attacks import PGD, LInf
from robustdet.attacks.objectives import a_cls
from tests.analysis.figures.conftest import CLASSES, SIZE, detector
from tests.evaluation import scenes

NOISE = np.random.default_rng(0).integers(0, 256, (2, 60, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def loaded() -> robustdet.LoadedDetector:
    return robustdet.LoadedDetector(detector(), tuple(CLASSES), "tiny")


def test_files_and_bytes_one_and_several(loaded: robustdet.LoadedDetector, tmp_path: Path):
    Image.fromarray(NOISE[0]).save(tmp_path / "0.png")
    (one,) = robustdet.detect(loaded, tmp_path / "0.png", threshold=0.2)
    (named,) = robustdet.detect(loaded, str(tmp_path / "0.png"), threshold=0.2)
    several = robustdet.detect(loaded, [NOISE[0], NOISE[1]], threshold=0.2)
    assert len(one.labels) > 0
    assert len(several) == 2
    for same in (named, several[0]):
        assert torch.equal(same.boxes, one.boxes)
        assert torch.equal(same.scores, one.scores)
    assert (one.scores > 0.2).all()
    assert (one.boxes <= torch.tensor([120, 60, 120, 60])).all()
    assert one.boxes[:, 2].max() > 60  # pixels of the photograph, not of the input


def test_an_attack_stays_in_its_ball_and_depends_on_one_image_alone(loaded: robustdet.LoadedDetector):
    pictures = [NOISE[0, :50, :70], NOISE[1]]
    both = robustdet.attack(loaded, pictures, "pgd_cls", "attack.steps=2", threshold=0.2)
    alone = robustdet.attack(loaded, pictures[1], "pgd_cls", "attack.steps=2", threshold=0.2)
    assert both.shape == (2, 3, SIZE, SIZE)
    assert torch.equal(both[1:], alone)
    again = robustdet.attack(loaded, both, PGD(a_cls, LInf("2/255"), 1, "2/255"), threshold=0.2)
    assert 0 < float((again - both).abs().max()) <= 2 / 255 + 1e-6
    assert len(robustdet.detect(loaded, again)) == 2


def test_given_targets_count_and_must_be_as_many(loaded: robustdet.LoadedDetector):
    target = scenes.target("mine", [[10.0, 10.0, 60.0, 70.0]], [1])
    attacked = robustdet.attack(loaded, NOISE[0], "pgd_cls", "attack.steps=1", targets=[target], threshold=1.0)
    assert attacked.shape == (1, 3, SIZE, SIZE)
    with pytest.raises(ValueError, match="got 1 images but 2 targets"):
        robustdet.attack(loaded, NOISE[0], targets=[target, target])


def test_what_cannot_be_is_said(loaded: robustdet.LoadedDetector, tmp_path: Path):
    with pytest.raises(ValueError, match="nothing to attack in image 0: no detection has a score above 1; lower it"):
        robustdet.attack(loaded, NOISE[0], threshold=1.0)
    with pytest.raises(ValueError, match=r"tiny takes images of 96 x 96 pixels, and these have \(64, 64\)"):
        robustdet.detect(loaded, torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        robustdet.detect(loaded, 255 * torch.rand(1, 3, SIZE, SIZE))
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist"):
        robustdet.load_detector(tmp_path / "none.ckpt")
    (tmp_path / "theirs.ckpt").touch()
    with pytest.raises(ValueError, match="give experiment=… as well"):
        robustdet.load_detector(tmp_path / "theirs.ckpt")
