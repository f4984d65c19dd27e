"""A block of a residual network (He et al., CVPR 2016, arXiv 1512.03385) as one layer of a chain."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Residual(nn.Module):
    """``after(shortcut(x) + branch(x))``; ``stride`` is that of the whole, in cells of x per cell of the output."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, after: nn.Module, stride: int = 1) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut, after
        self.stride = stride

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c2 h2 w2"]:
        return self.after(self.shortcut(x) + self.branch(x))
