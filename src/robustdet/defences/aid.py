"""Adversarial image discriminator (AID; RobustDet, section 4.3): an image in, its routing probabilities π out.

The discriminator is trunk ∘ input filter, then a softmax over K (temperature 1). It is part of the model: an attacker
sees it and differentiates through it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from robustdet.detection.normalisation import Normalisation
from robustdet.detection.pretrained import located
from robustdet.detection.weights import require_fit, tensors_in, without_counters
from robustdet.types import Images

RESNET18 = ResNet18_Weights.IMAGENET1K_V1


class AdversarialImageDiscriminator(nn.Module):
    """Images [B, 3, H, W], RGB in [0, 1] → routing probabilities [B, K].

    Args:
        trunk: any network from filtered images to K logits: `resnet18_trunk`, `SmallTrunk`, ….
        input_filter: what the trunk sees of an image: `imagenet_normalisation` (default), `HighPass`, or the
            detector's own normalisation (``protocol=authors``).
    """

    def __init__(self, trunk: nn.Module, input_filter: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.input_filter = imagenet_normalisation() if input_filter is None else input_filter

    def forward(self, images: Images) -> Float[Tensor, "B K"]:
        return self.trunk(self.input_filter(images)).softmax(dim=1)


def imagenet_normalisation() -> Normalisation:
    """ImageNet's mean and standard deviation: what torchvision's weights were trained on."""
    return Normalisation(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


class HighPass(nn.Module):
    """(x - its 3x3 mean) / scale: takes the picture away and leaves what a perturbation is made of.

    Without it an AID without ImageNet weights was seen to collapse: the triplet loss stayed at its margin. At the
    image's border the mean is over the pixels that exist.
    """

    def __init__(self, scale: float = 0.03) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Images) -> Images:
        mean = F.avg_pool2d(images, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        return (images - mean) / self.scale


def resnet18_trunk(num_kernels: int, weights: str | Path | None = None) -> nn.Module:
    """torchvision's ResNet-18 whose last layer has K outputs.

    ``weights`` is "imagenet" for torchvision's own, or a file in its format (the ImageNet head is dropped); None starts
    from random weights. A missing file raises MissingFileError that says how to get it, a file of something else
    InputError.
    """
    network = resnet18(weights=None)
    if weights is not None:
        path = located(weights, RESNET18, "model.aid.trunk.weights")
        state, wanted = without_counters(tensors_in(path)), without_counters(network.state_dict())
        require_fit(state, wanted, path)
        network.load_state_dict(state, strict=False)
    network.fc = nn.Linear(network.fc.in_features, num_kernels)
    return network


class SmallTrunk(nn.Sequential):
    """Four strided convolutions with batch norm, global average, K logits: for images of about 100 pixels."""

    def __init__(self, num_kernels: int, width: int = 16) -> None:
        widths = [3, width, 2 * width, 4 * width, 4 * width]
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in pairwise(widths)
        ]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_kernels))


class ConstantTrunk(nn.Module):
    """The same K logits for every image; they are learnt, from 0.

    RobustDet without its routing, as a control: K kernels that are mixed alike for all images are one plain kernel.
    Use it without L_aid (``loss.a=0``), whose triplets would all be alike.
    """

    def __init__(self, num_kernels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_kernels))

    def forward(self, filtered: Images) -> Float[Tensor, "B K"]:
        return self.logits.expand(len(filtered), -1)
