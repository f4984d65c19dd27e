"""What a network that routes its images is to the method that trains it and to all who watch: SSD is one of several."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.types import HasLosses, Images


@runtime_checkable
class Routed(Protocol):
    """What a routed network says: beside whatever its losses and detections need, how the images were routed.

    With CFR also the Gaussian of the features at its tap, ``[B, c, h, w]`` each; ``log_variance`` and
    ``reconstruction`` (images on the scale of [0, 1], not clamped) only where features were sampled.
    """

    @property
    def routing(self) -> Float[Tensor, "B K"]: ...

    @property
    def mean(self) -> Tensor | None: ...

    @property
    def log_variance(self) -> Tensor | None: ...

    @property
    def reconstruction(self) -> Tensor | None: ...


@runtime_checkable
class RoutedDetector(HasLosses, Protocol):
    """A detector with losses whose convolutions are mixed, image by image, as its discriminator says.

    ``aid`` maps images to π. A forward pass with a generator samples CFR's features, one without goes on with their
    mean; ``routing`` replaces what the discriminator would say.
    """

    aid: nn.Module

    def __call__(
        self, images: Images, generator: torch.Generator | None = None, routing: Float[Tensor, "B K"] | None = None
    ) -> Routed: ...
