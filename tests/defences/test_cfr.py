from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from robustdet.defences.cfr import Decoder, GaussianConv, draw_noise, kld_loss, reconstruction_loss, sample


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_kld_loss_is_that_of_torch() -> None:
    mean = torch.randn(2, 3, 4, 4, generator=generator()) * 2
    log_variance = torch.randn(2, 3, 4, 4, generator=generator(1))
    expected = torch_kl(Normal(mean, log_variance.exp().sqrt()), Normal(torch.zeros(()), torch.ones(()))).mean() / 255
    torch.testing.assert_close(kld_loss(mean, log_variance), expected)


def test_reconstruction_loss_is_a_mean_of_squares_in_pixel_values() -> None:
    clean = torch.rand(2, 3, 5, 5, generator=generator())
    torch.testing.assert_close(reconstruction_loss(clean + 10 / 255, clean), torch.tensor(100 / 255))
    assert reconstruction_loss(clean, clean) == 0


def test_samples_are_seeded_and_have_the_predicted_moments() -> None:
    mean, log_variance = torch.tensor([3.0, -1.0]), torch.tensor([0.0, 2.0])
    shape, noise = (20_000, 2), draw_noise(20_000, [2], torch.device("cpu"), generator())
    assert torch.equal(noise, draw_noise(20_000, [2], torch.device("cpu"), generator()))
    z = sample(mean.expand(shape), log_variance.expand(shape), noise)
    torch.testing.assert_close(z.mean(dim=0), mean, atol=0.06, rtol=0)
    torch.testing.assert_close(z.std(dim=0), (0.5 * log_variance).exp(), atol=0.05, rtol=0)


def test_gradients_reach_mean_and_log_variance_through_the_sample() -> None:
    mean = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    log_variance = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(5, generator=generator())
    assert torch.autograd.gradcheck(lambda m, v: sample(m, v, noise), (mean, log_variance))


def test_the_log_variance_is_clipped_from_above_only() -> None:
    mean, log_variance = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    nn.init.constant_(log_variance.weight, 1)
    nn.init.zeros_(log_variance.bias)
    x = torch.tensor([-1000.0, 5, 1000]).view(3, 1, 1, 1)
    assert GaussianConv(mean, log_variance)(x)[1].flatten().tolist() == [-1000, 5, 1000]
    got_mean, clipped = GaussianConv(mean, log_variance, log_variance_max=10.0)(x)
    assert clipped.flatten().tolist() == [-1000, 5, 10]
    assert torch.equal(got_mean, mean(x))


@pytest.mark.parametrize("size", [96, 128, 300, 321])
@pytest.mark.parametrize("stride", [2, 4, 8, 16])
def test_the_decoder_makes_images_of_any_size(size: int, stride: int) -> None:
    side = -(-size // stride)
    with torch.no_grad():
        image = Decoder(16, stride).decode(torch.randn(2, 16, side, side, generator=generator()), (size, size))
    assert image.shape == (2, 3, size, size)
    assert image.abs().max() <= 160


def test_the_decoder_of_ssd300_is_the_authors() -> None:
    """Channels, kernels and sizes of every layer, 38x38x512 to 300x300x3, without any resize."""
    decoder = Decoder(512, 8)
    channels = [(m.in_channels, m.out_channels) for m in decoder if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert channels == [
        (512, 512),
        (512, 256),
        (256, 256),
        (256, 128),
        (128, 128),
        (128, 64),
        (64, 64),
        (64, 32),
        (32, 3),
    ]
    x, sizes = torch.zeros(1, 512, 38, 38, device="meta"), []
    for layer in decoder.to("meta"):
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            sizes.append(x.shape[2])
    assert sizes == [38, 78, 76, 154, 152, 150, 150, 302, 300]


@pytest.mark.parametrize("stride", [1, 6])
def test_a_stride_without_doublings_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"power of two and at least 2, not {stride}"):
        Decoder(16, stride)
