"""The one door to a backbone: a chain of layers, which of them are sources of predictions, and how it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from robustdet.errors import InputError


class Backbone(nn.Module):
    """A chain of layers, from normalised images to feature maps. No batch norm: an image is seen alone.

    Args:
        layers: run one after the other. An index into them says from which on a network computes otherwise (CFR's tap,
            ``adversarially_aware``).
        sources: index of each layer whose output predicts, in order, with the number of its channels.

    A subclass says which ``trained`` weights of torchvision it takes, if any, and loads a file of them.
    """

    trained: WeightsEnum | None = None
    input_sizes: Sequence[int] = range(1, 10_000)  # pixels of a side that it takes

    def __init__(self, layers: Sequence[nn.Module], sources: dict[int, int], in_channels: int, out_channels: int):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.sources = sources
        self.in_channels, self.out_channels = in_channels, out_channels

    def forward(
        self, x: Float[Tensor, "B c h w"], start: int = 0, stop: int | None = None
    ) -> tuple[Float[Tensor, "B c2 h2 w2"], list[Float[Tensor, "B _ _ _"]]]:
        """Run layers ``start`` to ``stop`` (exclusive; None: to the end): the output and the sources on the way."""
        sources = []
        for index in range(len(self.layers))[start:stop]:
            x = self.layers[index](x)
            if index in self.sources:
                sources.append(x)
        return x, sources

    def load(self, path: Path) -> None:
        """Take trained weights from a file.

        Raises InputError, naming the file and what does not fit, for one of something else.
        """
        raise InputError(f"model.weights: {type(self).__name__} has no trained weights: set model.weights=null")

    def require_size(self, input_size: int) -> None:
        """Raises InputError for images of a size that it does not take."""
        if input_size not in self.input_sizes:
            low, high = self.input_sizes[0], self.input_sizes[-1]
            raise InputError(
                f"model.input_size={input_size}: {type(self).__name__} takes images of {low} to {high} pixels a side"
            )
