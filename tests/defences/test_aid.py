from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms.functional import normalize

from robustdet.defences.aid import AdversarialImageDiscriminator, ConstantTrunk, HighPass, SmallTrunk, resnet18_trunk
from robustdet.errors import InputError, MissingFileError


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("trunk", [SmallTrunk(4, width=4), resnet18_trunk(4)])
def test_every_image_gets_a_probability_vector_with_gradients_to_its_pixels(
    trunk: nn.Module, images: torch.Tensor
) -> None:
    aid = AdversarialImageDiscriminator(trunk).eval()
    images.requires_grad_()
    routing = aid(images)
    assert routing.shape == (2, 4)
    torch.testing.assert_close(routing.sum(dim=1), torch.ones(2))
    (gradient,) = torch.autograd.grad(routing[0, 0], images)
    assert gradient[0].any()
    assert not gradient[1].any()


def test_by_default_it_sees_images_as_torchvision_normalises_them(images: torch.Tensor) -> None:
    seen = AdversarialImageDiscriminator(nn.Identity()).input_filter(images)
    torch.testing.assert_close(seen, normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def test_high_pass_is_the_pixel_minus_the_mean_of_its_neighbourhood(images: torch.Tensor) -> None:
    seen = HighPass(scale=0.03)(images)
    for row, column in [(0, 0), (0, 5), (17, 9), (39, 31), (12, 31)]:
        window = images[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].mean(dim=(2, 3))
        torch.testing.assert_close(seen[:, :, row, column], (images[:, :, row, column] - window) / 0.03)


def test_constant_routing_is_learnt_and_of_no_image(images: torch.Tensor) -> None:
    aid = AdversarialImageDiscriminator(ConstantTrunk(4))
    assert torch.equal(aid(images), torch.full((2, 4), 0.25))
    aid(images)[0, 1].backward()
    assert aid.trunk.logits.grad.any()
    assert torch.equal(aid(torch.zeros_like(images)), aid(images))


def test_resnet_weights_come_from_a_file_but_for_the_head(tmp_path: Path) -> None:
    source = resnet18(weights=None)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    trunk = resnet18_trunk(4, tmp_path / "resnet18.pth")
    assert torch.equal(trunk.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert trunk.fc.out_features == 4


def test_a_missing_or_foreign_file_is_an_error_that_helps(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"aid.trunk.weights=.*nowhere\.pth: no such file. Also possible"):
        resnet18_trunk(4, tmp_path / "nowhere.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth does not fit this network:\n  missing: bn1(.|\n)*conv1.weight"):
        resnet18_trunk(4, tmp_path / "other.pth")
