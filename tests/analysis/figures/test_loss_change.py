import copy
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.optim import SGD

from robustdet.analysis.figures.loss_change import (
    KINDS,
    PATHS,
    SMALL,
    Influence,
    LossChanges,
    draw_panel,
    learn,
    notes,
    pairs,
)
from robustdet.analysis.figures.observation import attacked
from robustdet.analysis.figures.style import Look
from robustdet.errors import NumericalError
from tests.analysis.figures.conftest import SIZE
from tests.attacks import fakes

LR = 0.01


def steepest_descent(model, images, targets, steps):
    """Another implementation of plain SGD on L_det: parameters -= lr * gradient."""
    model = copy.deepcopy(model)
    for _ in range(steps):
        losses = model.losses(model(images), model.assign(targets))
        loss = (losses.classification.sum() + losses.localization.sum()) / losses.num_positives.sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= LR * gradient
    return model


def loss_of(model, image, target):
    with torch.no_grad():
        losses = model.losses(model(image[None]), model.assign([target]))
    return float(losses.total) / int(losses.num_positives)


def test_learning_is_descent_on_the_detection_loss(build_study):
    study = build_study()
    model, batch = study.subjects[0].model, next(iter(study.first(2)))
    expected = steepest_descent(model, batch.images, batch.targets, 3).state_dict()
    found = learn(model, batch.images, batch, partial(SGD, lr=LR), 3)
    assert not found.training
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("name", ["tiny_ssd", "tiny_robust_ssd"])
def test_every_way_of_influence_and_the_model_left_as_it_was(build_study, pgd, name):
    study = build_study(name)
    subject = study.subjects[0]
    before = fakes.state(subject.model)
    analysis = LossChanges(pgd, partial(SGD, lr=LR), steps=2, batch_size=2, num_images=4)
    findings = analysis(study)
    assert fakes.state(subject.model) == before

    learnt, watched = study.first(4)
    images = {
        "clean": (learnt.images, watched.images),
        "adv": tuple(attacked(study, subject, batch, "adv", pgd) for batch in (learnt, watched)),
    }
    by_path = {(r.learnt, r.watched, r.image): r.change for r in findings.rows}
    assert len(by_path) == len(findings.rows) == len(PATHS) * 2
    if name == "tiny_robust_ssd":
        return  # its discriminator's unused parameters have no gradient; the loop above is for plain ones
    for one in KINDS:
        pupil = steepest_descent(subject.model, images[one][0], learnt.targets, 2)
        for other in KINDS:
            for image, target in zip(images[other][1], watched.targets, strict=True):
                change = loss_of(pupil, image, target) - loss_of(subject.model, image, target)
                assert by_path[one, other, target.image_id] == pytest.approx(change, abs=2e-4)


def test_pairs_have_two_different_batches_of_one_size(build_study):
    study = build_study()
    found = [[[t.image_id for t in b.targets] for b in pair] for pair in pairs(study.first(None), 1)]
    assert found == [[["image0"], ["image1"]], [["image2"], ["image3"]]]
    for one, other in pairs(study.first(None), 2):
        assert one.images.shape == other.images.shape == (2, 3, SIZE, SIZE)


def test_too_few_images_for_a_pair(build_study, pgd):
    analysis = LossChanges(pgd, SGD, steps=1, batch_size=3, num_images=5)
    with pytest.raises(ValueError, match="a pair of batches of 3 images needs 6, got 5"):
        analysis(build_study())


def test_notes_count_the_images_whose_loss_rises():
    rows = [Influence("A", "adv", "clean", str(i), change) for i, change in enumerate([0.1, 0.3, -0.2, 0.2])]
    assert notes(rows) == ["A, adv → clean: the loss of 75 % of 4 images rises, by +0.100 on average"]


@pytest.mark.parametrize("sign", [-1, 1])
def test_no_image_falls_out_of_the_histogram(sign):
    """A reach for which sinh(arcsinh(reach)) is rounded towards zero."""
    reaches = np.random.default_rng(0).uniform(0.1, 10, 100)
    reach = next(r for r in reaches if SMALL * np.sinh(np.arcsinh(r / SMALL)) < r)
    axes = Figure().subplots()
    draw_panel(axes, sign * np.array([reach, reach / 3, 0.01]), Look("black", "o", "-"), reach)
    assert sum(sum(patch.get_data().values) for patch in axes.patches) == pytest.approx(100)


def test_steps_that_are_too_long_are_named(build_study, pgd):
    analysis = LossChanges(pgd, partial(SGD, lr=1e30), steps=2, batch_size=2, num_images=4)
    text = (
        r"after 2 steps on clean images its loss of '.*' has changed by (nan|inf): .* a smaller analysis\.optimizer\.lr"
    )
    with pytest.raises(NumericalError, match=text):
        analysis(build_study())
