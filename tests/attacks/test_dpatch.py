"""DPatch's targeted objective: whose square is the only object, and which class it is taken for."""

import pytest
import torch

from robustdet.attacks import DetectorVictim, image_generators
from robustdet.attacks.dpatch import OnlyObject
from robustdet.attacks.objectives import prepared
from robustdet.attacks.patch import PatchAttack
from robustdet.attacks.placement import Placement
from robustdet.attacks.threat import Patch
from robustdet.attacks.universal_patch import fit_patch
from robustdet.errors import InputError, StateError
from robustdet.types import Batch
from tests.attacks import fakes

THREAT, PLACE = Patch(0.3), Placement("anywhere")  # 8 x 8 of 16 x 16 pixels


def attack(label: int, steps: int = 30) -> PatchAttack:
    return PatchAttack(OnlyObject(label), THREAT, PLACE, steps=steps, step_size="32/255")


def test_it_is_minus_the_loss_of_images_whose_one_annotation_is_the_patch():
    detector, (images, targets) = fakes.detector().eval(), fakes.batch()
    squares = [
        fakes.target("square", [[column, row, column + 8, row + 8]], [2])
        for row, column in PLACE(targets, 8, 16, 16).tolist()
    ]
    expected = -detector.losses(detector(images), detector.assign(squares)).total
    with DetectorVictim(detector).borrow(targets) as model:
        assert torch.equal(prepared(attack(2).objective, model, images)(model, images), expected)


def test_the_patch_is_taken_for_the_class_and_the_objects_for_none():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    victim = DetectorVictim(detector)
    attacked = attack(5)(victim, images, targets, image_generators(0, [one.image_id for one in targets]))
    corners = PLACE(targets, 8, 16, 16)
    centres = detector.default_boxes[:, :2].flip(1) * fakes.SIZE
    with victim.borrow(targets) as model, torch.no_grad():
        before, after = (model.predict(x).log_probabilities[..., 5].exp() for x in (images, attacked))
    for place, corner in enumerate(corners):
        inside = ((centres >= corner) & (centres < corner + 8)).all(dim=1)
        assert after[place, inside].mean() > 2 * before[place, inside].mean()
        assert after[place, inside].mean() > 2 * after[place, ~inside].mean()


def test_one_patch_for_all_images_knows_each_epochs_places():
    seen = []

    class Noting(OnlyObject):
        def at(self, placement, threat):
            seen.append(placement.seed)
            return super().at(placement, threat)

    patch, values = fit_patch(
        DetectorVictim(fakes.detector()), lambda: [Batch(*fakes.batch())], Noting(1), THREAT, PLACE, 3, 0.1
    )
    assert seen == [0, 1, 2]
    assert len(values) == 3
    assert patch.shape == (3, 8, 8)


@pytest.mark.parametrize("label", [0, fakes.CLASSES + 1])
def test_a_class_that_the_detector_has_not_is_named(label: int):
    images, targets = fakes.batch()
    with pytest.raises(InputError, match=rf"DPatch: label={label}, expected one of the detector's classes, 1 to 5"):
        attack(label, 1)(DetectorVictim(fakes.detector()), images, targets, image_generators(0, ["a", "b", "c"]))


def test_without_a_patch_it_is_about_nothing():
    images, targets = fakes.batch()
    with (
        DetectorVictim(fakes.detector()).borrow(targets) as model,
        pytest.raises(StateError, match="is about a patch, and knows none"),
    ):
        OnlyObject(1).prepare(model, images)
