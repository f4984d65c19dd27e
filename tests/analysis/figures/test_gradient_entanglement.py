import pytest
import torch

from robustdet.analysis.figures.gradient_entanglement import (
    Entanglement,
    GradientEntanglement,
    compare,
    convolutions,
    depth,
    draw,
    entanglement,
    gradients,
    short,
)
from tests.attacks import fakes


def test_by_hand():
    r, cosine = entanglement(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]))
    assert r == 0.5  # 2 / 4
    assert cosine == pytest.approx(1 / 5**0.5)
    assert entanglement(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])) == (0, 0)
    assert entanglement(torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 0.0])) == (-2, -1)


@pytest.mark.parametrize("name", ["tiny_ssd", "tiny_robust_ssd"])
def test_gradients_are_those_of_an_ordinary_backward_pass(build_study, name):
    study = build_study(name)
    model, batch = study.subjects[0].model, next(iter(study.first(1)))
    before = fakes.state(model)
    found = gradients(model, batch.images, batch.targets[0])
    assert fakes.state(model) == before

    losses = model.losses(model(batch.images), model.assign(batch.targets))
    (losses.total.sum() / losses.num_positives.sum()).backward()
    for layer, module in convolutions(model).items():
        expected = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
        torch.testing.assert_close(found[layer], expected)
    assert len(found) == sum(1 for key in model.state_dict() if key.endswith("weight") and "aid." not in key)


def test_an_image_is_wholly_entangled_with_itself(build_study):
    study = build_study("tiny_robust_ssd")
    batch = next(iter(study.first(1)))
    rows = compare("A", study.subjects[0].model, batch.images, batch.images, batch.targets[0])
    assert [row.entanglement for row in rows] == pytest.approx([1.0] * len(rows))
    assert [row.cosine for row in rows] == pytest.approx([1.0] * len(rows))


def test_kernels_that_two_images_do_not_share_are_not_entangled(build_study):
    """With routing one-hot on different kernels, no parameter of any layer has a gradient from both."""
    study = build_study("tiny_robust_ssd")
    model, batch = study.subjects[0].model, next(iter(study.first(1)))

    class OneKernel(torch.nn.Module):
        def __init__(self, kernel):
            super().__init__()
            self.kernel = kernel

        def forward(self, images):
            return torch.eye(4)[self.kernel].expand(len(images), 4)

    found = []
    for kernel in (0, 2):
        model.aid = OneKernel(kernel)
        found.append(gradients(model, batch.images, batch.targets[0]))
    assert all(entanglement(g1, g2) == (0, 0) for g1, g2 in zip(*(g.values() for g in found), strict=True) if g1.any())


def test_a_row_of_boxes_for_each_detector(build_study, pgd):
    findings = GradientEntanglement(pgd, None)(build_study("tiny_ssd", "tiny_robust_ssd"))
    assert {row.image for row in findings.rows} == {f"image{i}" for i in range(4)}  # the fifth has no object
    assert [axes.get_title("left") for axes in findings.figure.axes] == ["tiny_ssd", "tiny_robust_ssd"]
    assert findings.notes[0].startswith("tiny_ssd: median R over images and layers ")


def test_layers_come_as_the_image_passes_them(build_study):
    names = list(convolutions(build_study("tiny_robust_ssd").subjects[0].model))
    assert sorted(names, key=depth) == names


def test_short_names_of_layers():
    assert short("backbone.layers.12") == "backbone 12"
    assert short("classification_head.layers.0") == "cls 0"
    assert short("backbone.layers.21.conv_mean") == "backbone 21"


def test_cfrs_mean_stands_below_the_layer_that_it_takes_the_place_of():
    layers = {"SSD": "backbone.layers.11", "RobustDet*": "backbone.layers.11.conv_mean"}
    rows = [Entanglement(detector, layer, "a", 0.5, 0.5) for detector, layer in layers.items()]
    figure = draw(rows, "two images")
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["backbone 11"]
