"""What no attack makes: noise of other kinds, JPEG."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from robustdet.attacks import Noise, image_generators
from robustdet.attacks.jpeg import JPEG
from robustdet.attacks.noise import GaussianNoise
from robustdet.attacks.threat import L2
from tests.attacks import fakes


class Untouchable:
    def borrow(self, targets):
        raise AssertionError("asked")


def made(attack, images):
    """Of a victim that must not be asked."""
    targets = [fakes.target(str(place), [], []) for place in range(len(images))]
    return attack(Untouchable(), images, targets, image_generators(0, [target.image_id for target in targets]))


def grey(size=64):
    return torch.full((2, 3, size, size), 0.5)


def test_gaussian_noise_has_its_deviation_and_its_tails():
    noise = (made(GaussianNoise("8/255"), grey()) - grey()) * 255 / 8
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert noise.abs().max() > 3
    assert (noise.abs() < 1).float().mean() == pytest.approx(0.683, abs=0.01)


def test_noise_of_an_l2_ball_is_as_large_as_the_ball_and_no_larger():
    noise = (made(Noise(L2("8/255")), grey()).double() - grey().double()) * 255
    sizes = noise.square().mean(dim=(1, 2, 3)).sqrt()
    assert (sizes <= 8).all()
    assert (sizes > 7.99).all()  # nearly all of a ball of so many dimensions is near its surface
    with pytest.raises(ValueError, match=r"expected a distribution out of \['uniform'\] in L2, got 'sign'"):
        Noise(L2("8/255"), "sign")


@pytest.mark.parametrize("quality", [10, 30, 95])
def test_jpeg_is_what_another_library_makes_of_it(quality):
    """Within two levels: Pillow's decoder rounds and upsamples otherwise."""
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 6, generator=g), (48, 48), mode="bicubic").clamp(0, 1)
    ours = made(JPEG(quality), smooth)
    for image, compressed in zip(smooth, ours, strict=True):
        file = io.BytesIO()
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(file)).astype(float)
        assert np.abs(compressed.permute(1, 2, 0).numpy() * 255 - theirs).mean() < 2
        assert torch.equal((compressed * 255).round() / 255, compressed)
    assert (ours - smooth).abs().mean() > 0


def test_less_quality_changes_more_and_channels_keep_their_order():
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1
    assert made(JPEG(95), red).mean(dim=(2, 3)).argmax(dim=1) == 0
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    changes = [float((made(JPEG(quality), images) - images).abs().mean()) for quality in (95, 50, 10)]
    assert changes == sorted(changes)
    with pytest.raises(ValueError, match="expected a quality from 1 to 100, got 0"):
        JPEG(0)
