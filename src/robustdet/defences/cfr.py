"""Consistent features with reconstruction (CFR; RobustDet, section 4.4): the features at one layer become a Gaussian.

The layer's convolution is replaced, before its ReLU, by two: one predicts the mean μ, one log σ². Training goes on with
a sample of N(μ, σ²), from which a decoder has to reconstruct the clean image; everything else goes on with μ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.attacks.randomness import generator_on
from robustdet.errors import InputError
from robustdet.ranks import own_rows, world_size
from robustdet.types import Images

# The paper's b = 0.16 and c = 5 belong to losses that the authors divide by the largest pixel value.
PIXEL_MAX = 255.0


@dataclass(frozen=True)
class CFR:
    """Where and how a network's features become a Gaussian.

    Args:
        tap: index into the backbone's layers of the convolution to replace; conv4_3 of VGG16 is 21.
        log_variance_max: log σ² is clipped to this from above (the authors: 10).
    """

    tap: int
    log_variance_max: float | int = math.inf


class GaussianConv(nn.Module):
    """Two convolutions side by side: x → μ, log σ².

    Args:
        conv_mean: the layer that stood here.
        conv_log_variance: another of the same shape.
        log_variance_max: as of `CFR`.
    """

    def __init__(
        self, conv_mean: nn.Module, conv_log_variance: nn.Module, log_variance_max: float | int = math.inf
    ) -> None:
        super().__init__()
        self.conv_mean = conv_mean
        self.conv_log_variance = conv_log_variance
        self.log_variance_max = log_variance_max

    def forward(self, x: Float[Tensor, "B in H W"]) -> tuple[Float[Tensor, "B out h w"], Float[Tensor, "B out h w"]]:
        return self.conv_mean(x), self.conv_log_variance(x).clamp(max=self.log_variance_max)


def draw_noise(
    images: int, shape: Sequence[int], device: torch.device, generator: torch.Generator
) -> Float[Tensor, "B *shape"]:
    """ε ~ N(0, 1) of so many images' features, drawn on ``device``; the same on one kind of device.

    And in however many processes: each draws for the images of all, and keeps what is of its own.
    """
    there = generator_on(device, generator)
    return own_rows(torch.randn([world_size() * images, *shape], generator=there, device=device))


def sample(
    mean: Float[Tensor, "B *shape"], log_variance: Float[Tensor, "B *shape"], noise: Float[Tensor, "B *shape"]
) -> Float[Tensor, "B *shape"]:
    """z = μ + σ ε."""
    return mean + (0.5 * log_variance).exp() * noise.to(mean)


class Decoder(nn.Sequential):
    """G: features z [B, C, h, w] → image [B, 3, H, W] as pixels 0..255 minus their mean, within ±160.

    The authors' decoder for conv4_3 of SSD300 (38 → 300), generalised: ``log2(stride)`` doublings, each halving the
    channels; a bilinear resize follows where their sizes do not end at the image's.

    Args:
        channels: C.
        stride: pixels of the image per feature, a power of two of at least 2.
    """

    amplitude = 160.0

    def __init__(self, channels: int, stride: int = 8) -> None:
        doublings = stride.bit_length() - 1
        if stride < 2 or stride != 1 << doublings:
            raise InputError(f"the decoder needs a stride that is a power of two and at least 2, not {stride}")
        widths = [max(channels >> halvings, 8) for halvings in range(doublings + 2)]
        widths[0] = channels
        layers = [*block(nn.Conv2d(channels, channels, 3, padding=1))]
        for i, o in pairwise(widths[:doublings]):
            layers += [*block(nn.ConvTranspose2d(i, o, 3, stride=2, output_padding=1)), *block(nn.Conv2d(o, o, 3))]
        i, middle, o = widths[-3:]
        layers += [
            *block(nn.Conv2d(i, middle, 3)),
            *block(nn.Conv2d(middle, middle, 3, padding=1)),
            *block(nn.ConvTranspose2d(middle, o, 3, stride=2, output_padding=1)),
            nn.Conv2d(o, 3, 3),
            nn.Tanh(),
        ]
        super().__init__(*layers)
        for conv in layers:
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)

    def decode(self, z: Float[Tensor, "B C h w"], size: tuple[int, int]) -> Images:
        """``size`` is the image's (height, width), pixels."""
        image = self(z) * self.amplitude
        return image if image.shape[2:] == size else F.interpolate(image, size, mode="bilinear", antialias=False)


def block(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, nn.Module, nn.Module]:
    return conv, nn.BatchNorm2d(conv.out_channels), nn.LeakyReLU(0.01)


def reconstruction_loss(reconstruction: Images, clean: Images) -> Float[Tensor, ""]:
    """L_re (Eq. 3): mean squared error against the clean images on 0..255, / 255; both are given in [0, 1]."""
    return F.mse_loss(reconstruction * PIXEL_MAX, clean * PIXEL_MAX) / PIXEL_MAX


def kld_loss(mean: Float[Tensor, "*shape"], log_variance: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """L_kld (Eq. 4): KL(N(μ, σ²) || N(0, 1)), mean over elements, / 255."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean() / PIXEL_MAX
