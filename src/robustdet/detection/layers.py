"""Plain convolutional networks from a one-line plan: VGG16, SSD's extra layers and a tiny net are the same class."""

from __future__ import annotations

import re
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from robustdet.detection.backbones.backbone import Backbone
from robustdet.errors import InputError

_CONVOLUTION = re.compile(
    r"(?P<channels>\d+)(?:k(?P<k>\d+))?(?:s(?P<s>\d+))?(?:d(?P<d>\d+))?(?:p(?P<p>\d+))?(?P<source>\^)?"
)


class PlannedLayers(Backbone):
    """A chain of convolutions and pools, described by a plan of tokens with blanks between them.

    =========  =====================================================================================================
    ``64``     3x3 convolution to 64 channels and a ReLU (two layers); after the number, in this order:
               ``k1`` kernel 1, ``s2`` stride 2, ``d6`` dilation 6, ``p0`` padding 0 (else what keeps size at stride 1)
    ``^``      at the end of such a token: what leaves its ReLU is a source of predictions
    ``M C P``  max-pool: 2x2; 2x2 that rounds sizes up; 3x3 with stride 1
    =========  =====================================================================================================

    ``width`` multiplies all channels. ``layers`` is flat, so that VGG16's indices are those everybody knows (conv4_3
    is 21, its ReLU 22). ReLUs work in place: a twentieth of SSD300's forward pass on a CPU.
    """

    def __init__(self, plan: str, in_channels: int = 3, width: float | int = 1) -> None:
        layers: list[nn.Module] = []
        sources: dict[int, int] = {}  # index of the ReLU whose output is a source -> its channels
        first = in_channels
        for token in plan.split():
            if token in _POOLS:
                layers.append(_POOLS[token]())
                continue
            convolution, is_source = _convolution(token, in_channels, width, plan)
            layers += [convolution, nn.ReLU(inplace=True)]
            in_channels = convolution.out_channels
            if is_source:
                sources[len(layers) - 1] = in_channels
        super().__init__(layers, sources, first, in_channels)


_POOLS = {
    "M": partial(nn.MaxPool2d, kernel_size=2),
    "C": partial(nn.MaxPool2d, kernel_size=2, ceil_mode=True),
    "P": partial(nn.MaxPool2d, kernel_size=3, stride=1, padding=1),
}


def _convolution(token: str, in_channels: int, width: float | int, plan: str) -> tuple[nn.Conv2d, bool]:
    parsed = _CONVOLUTION.fullmatch(token)
    if parsed is None:
        raise InputError(
            f"unknown layer {token!r} in the plan {plan!r}; expected one like 64, 512s2^, 1024d6, M, C or P"
        )
    kernel, stride, dilation = int(parsed["k"] or 3), int(parsed["s"] or 1), int(parsed["d"] or 1)
    padding = int(parsed["p"]) if parsed["p"] else dilation * (kernel // 2)
    channels = max(1, round(int(parsed["channels"]) * width))
    return nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation), parsed["source"] is not None


def source_sizes(backbone: Backbone, extras: Backbone, input_size: int) -> list[int]:
    """Cells along each side of the sources' maps, from a pass that computes shapes only (on the meta device).

    Raises InputError for images that are too small for the layers.
    """
    backbone.require_size(input_size)
    x, sizes = torch.empty(1, 3, input_size, input_size, device="meta"), []
    for part in (backbone, extras):
        try:
            x, sources = shapes(part, x)
        except RuntimeError as error:
            raise InputError(f"model.input_size={input_size} is too small for the network's layers: {error}") from error
        sizes += [source.shape[-1] for source in sources]
    return sizes


def shapes(part: Backbone, x: Tensor, stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """What its layers up to ``stop`` make of ``x``, on the meta device."""
    state = {name: tensor.to("meta") for name, tensor in part.state_dict().items()}
    return functional_call(part, state, (x.to("meta"), 0, stop))


class L2Norm(nn.Module):
    """Scale every pixel's feature vector to a learnt length per channel (ParseNet; SSD, section 3.1)."""

    def __init__(self, channels: int, scale: float | int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        length = (x.pow(2).sum(dim=1, keepdim=True) + 1e-10).sqrt()
        return x / length * self.weight.view(-1, 1, 1)


class Head(nn.Module):
    """For each source a 3x3 convolution that says ``outputs`` numbers for each of its cells' default boxes."""

    def __init__(self, channels: list[int], boxes_per_cell: list[int], outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.layers = nn.ModuleList(
            nn.Conv2d(c, boxes * outputs, 3, padding=1) for c, boxes in zip(channels, boxes_per_cell, strict=True)
        )

    def forward(self, sources: list[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B P outputs"]:
        maps = [layer(source) for layer, source in zip(self.layers, sources, strict=True)]
        return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, self.outputs) for m in maps], dim=1)
