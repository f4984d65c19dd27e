import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdet.attacks import DetectorVictim, image_generators
from robustdet.attacks.objectives import a_cls, total
from robustdet.attacks.patch import PatchAttack, PlainPatch
from robustdet.attacks.placement import PLACES, Placement
from robustdet.attacks.threat import Patch
from robustdet.attacks.transformations import Transformations, paste
from robustdet.attacks.universal_patch import UniversalPatch, fit_patch, png_of, read_patch, resized
from robustdet.cli.composition import check, composed
from robustdet.errors import InputError, MissingFileError
from robustdet.types import Batch
from tests.attacks import fakes
from tests.evaluation.scenes import boxes, target

STILL = Transformations(brightness=0, contrast=0, noise=0, scale=1, rotation=0, shift=0)
ROUGH = Transformations(brightness=0.3, contrast=0.5, noise=0.1, scale=0.5, rotation=45, shift=1)
SIZE = 0.1  # of 16 x 16 pixels: 5 x 5


def generators(ids, seed=0):
    return image_generators(seed, ids)


def inside_a_square(image, clean, side) -> bool:
    """By a slow look at every square: with its clean pixels the image is the clean one."""
    height, width = image.shape[-2:]
    return any(
        torch.equal(paste_square(image, clean, row, column, side), clean)
        for row in range(height - side + 1)
        for column in range(width - side + 1)
    )


@pytest.mark.parametrize("size", [0, -0.1, 1.01, math.nan, math.inf])
def test_a_size_is_a_share_of_the_image(size):
    with pytest.raises(InputError, match=rf"a size above 0 and at most 1, .* got size={size!r}"):
        Patch(size)


@pytest.mark.parametrize(("size", "height", "width", "side"), [(0.001, 16, 16, 0), (0.5, 30, 300, 67), (1, 10, 12, 10)])
def test_a_patch_has_a_pixel_and_fits_into_the_image(size, height, width, side):
    text = rf"size={size:g} of an image of {width} x {height} pixels is a square of {side} x {side}: expected one"
    if side == 10:
        assert Patch(size).side(height, width) == side
    else:
        with pytest.raises(InputError, match=text):
            Patch(size).side(height, width)


@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_what_is_projected_is_the_clean_image_outside_the_best_square(seed, side, share):
    g = torch.Generator().manual_seed(seed)
    clean, moved = torch.rand(2, 1, 3, 6, 7, generator=g)
    moved = torch.where(torch.rand(6, 7, generator=g) < share, moved * 3 - 1, clean)
    threat = Patch((side**2 + 0.5) / 42)
    projected = threat.project(moved, clean)
    assert inside_a_square(projected[0], clean[0], side)
    assert torch.equal(threat.project(projected, clean), projected)
    nearest = min(
        float((paste_square(clean, moved.clamp(0, 1), row, column, side) - moved).double().norm())
        for row in range(7 - side)
        for column in range(8 - side)
    )
    assert float((projected - moved).double().norm()) == pytest.approx(nearest, abs=1e-6)


def paste_square(clean, other, row, column, side):
    made = clean.clone()
    made[..., row : row + side, column : column + side] = other[..., row : row + side, column : column + side]
    return made


@pytest.mark.parametrize("place", PLACES)
def test_a_place_lies_in_the_image_and_belongs_to_its_id(place):
    g = torch.Generator().manual_seed(0)
    targets = [target(str(i), boxes(i % 4, 40, g), [1] * (i % 4)) for i in range(40)]
    placed = Placement(place)(targets, 9, 40, 50)
    assert (placed >= 0).all()
    assert (placed <= torch.tensor([31, 41])).all()
    alone = torch.cat([Placement(place)([one], 9, 40, 50) for one in targets])
    assert torch.equal(placed, alone)
    assert not torch.equal(placed, Placement(place, seed=1)(targets, 9, 40, 50))


def test_on_an_object_is_its_middle_and_beside_it_hides_none():
    one = target("a", [[10, 20, 20, 34], [60, 20, 70, 34]], [1, 2], difficult=[False, True])
    assert Placement("on_object")([one], 8, 40, 80).tolist() == [[23, 11]]
    for seed in range(20):
        row, column = Placement("beside_object", seed)([one], 8, 40, 80)[0].tolist()
        down = max(20 - row - 8, row - 34, 0)
        across = max(10 - column - 8, column - 20, 0)
        assert max(down, across) <= 1  # as near as can be
        assert row + 8 <= 20 or row >= 34 or column + 8 <= 10 or column >= 20
    full = target("b", [[0, 0, 80, 40]], [1])
    Placement("beside_object")([full], 8, 40, 80)  # no room: as little as can be


@pytest.mark.parametrize(
    ("field", "value"), [("brightness", -0.1), ("contrast", 2), ("noise", -1), ("rotation", 46), ("shift", 1.5)]
)
def test_a_transformation_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=rf"expected {field} from 0 to \d+, got {field}={value}"):
        Transformations(**{field: value})
    with pytest.raises(InputError, match="expected scale above 0 and at most 1, got scale=0"):
        Transformations(scale=0)


def test_without_any_transformation_a_patch_is_pasted_as_it_is():
    images, patches = torch.rand(3, 3, 20, 24), torch.rand(3, 3, 7, 7)
    corners = torch.tensor([[0, 0], [13, 17], [5, 6]])
    pasted = paste(images, patches, corners)
    assert torch.equal(pasted[1, :, 13:, 17:], patches[1])
    moved = STILL.paste(images, patches, corners, generators("abc"))
    torch.testing.assert_close(moved, pasted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_drawn_nothing_changes_outside_one_square(seed):
    images, patches = torch.rand(4, 3, 20, 24), torch.rand(4, 3, 7, 7).requires_grad_()
    corners = torch.tensor([[0, 0], [13, 17], [5, 6], [13, 0]])
    pasted = ROUGH.paste(images, patches, corners, generators("abcd", seed))
    assert 0 <= pasted.min() <= pasted.max() <= 1
    assert all(inside_a_square(*pair, 7) for pair in zip(pasted.detach(), images, strict=True))
    assert all((one != other).any() for one, other in zip(pasted, images, strict=True))
    (gradient,) = torch.autograd.grad(pasted.sum(), patches)
    assert all(of_patch.abs().sum() > 0 for of_patch in gradient)
    alone = ROUGH.paste(images[2:3], patches[2:3], corners[2:3], generators("c", seed))
    torch.testing.assert_close(alone[0], pasted[2], atol=1e-6, rtol=0)


def attack(**fields):
    given = {"objective": total, "threat": Patch(SIZE), "placement": Placement("beside_object"), "steps": 20}
    return PatchAttack(**{**given, "step_size": "32/255", **fields})


def run(made, detector, images, targets):
    return made(DetectorVictim(detector), images, targets, generators([one.image_id for one in targets]))


def climbed(detector, images, targets):
    with DetectorVictim(detector).borrow(targets) as model, torch.no_grad():
        return total(model, images)


@pytest.mark.parametrize("update", ["sign", "adam"])
@pytest.mark.parametrize("transformations", [None, Transformations()])
def test_a_patch_climbs_higher_than_chance_and_changes_its_square_alone(update, transformations):
    detector, (images, targets) = fakes.detector(), fakes.batch()
    made = run(attack(update=update, transformations=transformations), detector, images, targets)
    plain = run(PlainPatch(Patch(SIZE), Placement("beside_object"), "random"), detector, images, targets)
    assert all(inside_a_square(*pair, 5) for pair in zip(made, images, strict=True))
    assert torch.equal((made * 255).round() / 255, made)
    with_objects = slice(2)
    assert (climbed(detector, made, targets) > climbed(detector, plain, targets))[with_objects].all()
    assert torch.equal((made != images).any(1), (plain != images).any(1) | (made != images).any(1))  # the same place


def test_without_a_random_start_and_steps_the_image_is_clean():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    assert torch.equal(run(attack(steps=0, random_start=False), detector, images, targets), images)


def test_what_a_patch_attack_cannot_be_is_named():
    with pytest.raises(InputError, match=r"one sample or more .* got samples=0"):
        attack(samples=0)
    for name, wrong, said in (
        ("patch_total", "placement.place=above", "above"),
        ("patch_total", "update=lion", "lion"),
        ("patch_grey", "content=pink", "pink"),
    ):
        with pytest.raises(InputError, match=said):
            check(composed("predict", [f"attack={name}", f"attack.{wrong}"]), "predict")


def test_a_universal_patch_comes_back_from_its_file(tmp_path):
    patch = (torch.rand(3, 6, 6) * 255).round() / 255
    (tmp_path / "patch.png").write_bytes(png_of(patch))
    assert torch.equal(read_patch(tmp_path / "patch.png"), patch)
    images, targets = fakes.batch()
    made = UniversalPatch(tmp_path / "patch.png", Patch(SIZE), Placement("anywhere"))
    pasted = run(made, fakes.detector(), images, targets)
    (row, column), *_ = Placement("anywhere")(targets, 5, 16, 16).tolist()
    shown = pasted[0, :, row : row + 5, column : column + 5]
    torch.testing.assert_close(shown, resized(patch, 5), atol=0.5 / 255 + 1e-6, rtol=0)
    at_hand = UniversalPatch.of(patch, Patch(SIZE), Placement("anywhere"))
    assert torch.equal(pasted, run(at_hand, fakes.detector(), images, targets))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, r"patch.png does not exist: `python -m src.analyze analysis=universal_patch"),
        (b"no picture", "is no picture that can be read: expected a square one"),
        (
            cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes(),
            "is a picture of 6 x 4 pixels: expected a square one",
        ),
    ],
)
def test_a_patch_file_that_is_none_is_named(tmp_path, content, text):
    file = tmp_path / "patch.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises((InputError, MissingFileError), match=text):
        UniversalPatch(file, Patch(SIZE), Placement("anywhere"))


def test_training_a_universal_patch_climbs_and_gives_the_model_back():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    before = fakes.state(detector)
    places = Placement("beside_object")
    fit = {"objective": a_cls, "threat": Patch(SIZE), "placement": places, "epochs": 12, "step_size": 0.1}
    patch, values = fit_patch(DetectorVictim(detector), lambda: [Batch(images, targets)], **fit)
    assert fakes.state(detector) == before
    assert patch.shape == (3, 5, 5)
    assert len(values) == 12
    assert values[-1] > values[0]
    again, _ = fit_patch(DetectorVictim(detector), lambda: [Batch(images, targets)], **fit)
    assert torch.equal(patch, again)
    with pytest.raises(InputError, match="trained on images, and there is none"):
        fit_patch(DetectorVictim(detector), list, **fit)
