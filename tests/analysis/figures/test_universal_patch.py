import csv
from dataclasses import replace

import pytest
import torch

from robustdet.analysis.figures.study import save
from robustdet.analysis.figures.universal_patch import FitUniversalPatch
from robustdet.attacks.objectives import total
from robustdet.attacks.placement import Placement
from robustdet.attacks.threat import Patch
from robustdet.attacks.transformations import Transformations
from robustdet.attacks.universal_patch import read_patch
from robustdet.errors import InputError
from tests.analysis.figures.conftest import batches

FIT = FitUniversalPatch(
    total,
    Patch(0.05),
    Placement("beside_object"),
    epochs=2,
    step_size="16/255",
    update="adam",
    transformations=Transformations(),
    train_images=3,
    num_images=2,
)


def test_each_detector_has_a_patch_a_picture_of_it_and_its_numbers(build_study, tmp_path):
    study = replace(build_study("tiny_ssd", "tiny_robust_ssd"), validation=lambda: batches(4))
    findings = FIT(study)
    files = save(findings, tmp_path, "universal_patch")
    assert sorted(file.name for file in files[3:]) == ["patch_tiny_robust_ssd.png", "patch_tiny_ssd.png"]
    assert read_patch(tmp_path / "patch_tiny_ssd.png").shape == (3, 21, 21)
    with (tmp_path / "universal_patch.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["clean", "grey patch", "universal patch"] * 2
    assert findings.notes[0].startswith("tiny_ssd: mAP ")
    again = FIT(study)
    assert again.files == findings.files


def test_of_one_detector_it_is_called_patch(build_study):
    findings = FIT(replace(build_study(), validation=lambda: batches(4)))
    assert list(findings.files) == ["patch.png"]


def test_without_validation_images_it_says_what_sets_some_apart(build_study):
    with pytest.raises(InputError, match=r"trained on validation images, and there is none: data\.val_share=0\.1"):
        FIT(build_study())


def test_no_more_images_than_asked_for_are_trained_on(build_study):
    """What comes after the first three decides nothing."""
    one, other = batches(5), batches(5)
    other[1].images[1] = torch.rand(3, 96, 96)
    found = [FIT(replace(build_study(), validation=lambda given=given: given)).files for given in (one, other)]
    assert found[0] == found[1]
