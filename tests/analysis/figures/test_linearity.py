from dataclasses import replace
from math import nan

import pytest
import torch

from robustdet.analysis.figures.linearity import ATTACKED, Deviation, Linearity, notes
from robustdet.attacks import DetectorVictim, image_generators
from robustdet.errors import InputError
from robustdet.types import Batch
from tests.analysis.figures.conftest import batches, detector


def by_hand(model, image, target, step):
    """Pixel by pixel in double precision, what the gradient foretells and what the loss does."""
    model, image = model.double(), image.double()[None].requires_grad_()
    assignment = model.assign([target])

    def loss(at):
        return model.losses(model(at), assignment).total.sum()

    (gradient,) = torch.autograd.grad(loss(image), image)
    image = image.detach()
    moved, foretold = image.clone(), 0.0
    for place in map(tuple, torch.cartesian_prod(*map(torch.arange, image.shape)).tolist()):
        slope = float(gradient[place])
        moved[place] = min(max(float(image[place]) + step * ((slope > 0) - (slope < 0)), 0), 1)
        foretold += (float(moved[place]) - float(image[place])) * slope
    with torch.no_grad():
        found = float(loss(moved)) - float(loss(image))
    return abs(found - foretold) / max(abs(found), abs(foretold))


def test_an_error_is_what_the_gradient_foretells_of_a_step_against_what_it_does(build_study, pgd):
    rows = Linearity(pgd, ["8/255", "1/255"], 2)(build_study("tiny_robust_ssd")).rows
    assert [(row.images, row.image, row.step) for row in rows] == [
        (images, image, step) for images in ("clean", ATTACKED) for image in ("image0", "image1") for step in (1.0, 8.0)
    ]
    batch = batches()[0]
    model = detector("tiny_robust_ssd")
    generators = image_generators(0, ["image0", "image1"], ATTACKED)
    images = {"clean": batch.images, ATTACKED: pgd(DetectorVictim(model), batch.images, batch.targets, generators)}
    for row in (rows[3], rows[5]):  # a clean image at 8/255, and an attacked one
        place = int(row.image[-1])
        expected = by_hand(detector("tiny_robust_ssd"), images[row.images][place], batch.targets[place], row.step / 255)
        assert row.error == pytest.approx(expected, abs=0.02)
        assert expected > 0.01


def test_images_without_objects_have_no_loss_to_follow(build_study, pgd):
    findings = Linearity(pgd, ["1/255"], None)(build_study())
    assert {row.image for row in findings.rows} == {"image0", "image1", "image2", "image3"}
    assert [axes.get_title() for axes in findings.figure.axes] == ["clean images", "attacked images"]


def test_it_says_up_to_which_step_half_of_the_images_agree():
    errors = {0.5: (0.1, 0.1, 0.9), 1.0: (0.1, 0.3, 0.3), 2.0: (0.1, 0.1, 0.1)}  # after a gap it does not hold again
    rows = [
        Deviation(name, images, str(place), step, error)
        for name, images in (("one", "clean"), ("one", ATTACKED))
        for step, of in errors.items()
        for place, error in enumerate(of)
        if images == "clean" or step == 1.0
    ]
    assert notes(rows) == [
        "one, clean images: the gradient holds for steps up to 0.5/255 (half of the images, within 20%)",
        "one, attacked images: the gradient does not hold for 1/255 (half of the images, within 20%)",
    ]


def test_what_is_not_finite_does_not_agree():
    rows = [Deviation("one", "clean", str(place), 1.0, error) for place, error in enumerate([0.1, 0.1, nan, nan, 0.9])]
    assert notes(rows) == [
        "one, clean images: the gradient does not hold for 1/255 (half of the images, within 20%)",
        "one, clean images: the loss or its gradient is not finite in 2 of them",
    ]


@pytest.mark.parametrize("steps", [[], ["0/255"], ["1e-9"], ["1/255", "2/255", "1/255"]])
def test_each_step_is_looked_at_once(pgd, steps):
    with pytest.raises(InputError, match=r"analysis\.step_sizes is \[.*\]: it has to name one step or more, each once"):
        Linearity(pgd, steps, None)


def test_where_no_image_has_an_object_there_is_nothing_to_look_at(build_study, pgd):
    study = build_study()
    alone = replace(study, batches=[Batch(batches()[2].images, batches()[2].targets)], size=1)
    with pytest.raises(InputError, match=r"analysis\.num_images: none of the 1 images of a test has an object"):
        Linearity(pgd, ["1/255"], None)(alone)
