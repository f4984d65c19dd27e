"""CFR in a network with shortcuts: the sum at the end of a residual block, before its ReLU, becomes a Gaussian.

A way leads around each convolution there, so that none of them could be replaced as conv4_3 of VGG16 is; but all that
goes on to later stages passes the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.defences.cfr import draw_noise, sample
from robustdet.defences.robust_ssd import log_variance_like


@dataclass
class Features:
    """At the tap, in one forward pass: ``z`` is what goes on, a sample where a generator was given, else the mean."""

    generator: torch.Generator | None
    mean: Tensor | None = None
    log_variance: Tensor | None = None
    z: Tensor | None = None


class Tap:
    """Hands the generator to a block deep in somebody else's network and its features back, for one forward pass."""

    def __init__(self) -> None:
        self._features: Features | None = None

    @contextmanager
    def use(self, generator: torch.Generator | None) -> Iterator[Features]:
        outer, self._features = self._features, Features(generator)
        try:
            yield self._features
        finally:
            self._features = outer

    def through(self, mean: Tensor, log_variance: Callable[[], Tensor]) -> Tensor:
        """What goes on. Raises RuntimeError outside of `use`."""
        found = self._features
        if found is None:
            raise RuntimeError("a GaussianBlock was called without a tap in use: call its network")
        found.mean = found.z = mean
        if found.generator is not None:
            found.log_variance = log_variance()
            noise = draw_noise(len(mean), mean.shape[1:], mean.device, found.generator)
            found.z = sample(mean, found.log_variance, noise)
        return found.z


class GaussianBlock(nn.Module):
    """One of torchvision's ResNet blocks, under its own names, and beside its last convolution one for log σ².

    Args:
        block: a `BasicBlock` or `Bottleneck`; its parts are taken over.
        tap: the cell that the network fills.
        log_variance_max: as of `CFR`.
    """

    def __init__(self, block: Any, tap: Tap, log_variance_max: float | int) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)
        self.changes_shape = block.downsample is not None
        self.last = max(place for place in (1, 2, 3) if hasattr(block, f"conv{place}"))
        self.tap, self.log_variance_max = tap, log_variance_max
        self.conv_log_variance = log_variance_like(self.get_submodule(f"conv{self.last}"))  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c2 h2 w2"]:
        hidden = x
        for place in range(1, self.last):
            hidden = F.relu(self._normed(hidden, place))
        mean = self._normed(hidden, self.last) + (self.get_submodule("downsample")(x) if self.changes_shape else x)
        return F.relu(self.tap.through(mean, lambda: self.conv_log_variance(hidden).clamp(max=self.log_variance_max)))

    def _normed(self, x: Tensor, place: int) -> Tensor:
        return self.get_submodule(f"bn{place}")(self.get_submodule(f"conv{place}")(x))
