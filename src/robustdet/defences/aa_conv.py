"""Adversarially-aware convolution (RobustDet, section 4.2): K kernels, mixed per image by its routing vector π.

    θ(x) = Σ_k π_k(x) θ_k        for the kernel and for the bias

The routing vectors of the images in flight lie in one `Routing` cell, which the network owns and its layers share: a
layer keeps the call signature of `nn.Conv2d` and fits wherever that stood.

What no execution avoids: an exact gradient to π needs every image's own kernel gradient. Forward and input-backward of
a plain convolution are two units of arithmetic, here they are three where π asks for its gradient and two where not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.defences.aa_choices import choices_on

Execution: TypeAlias = Literal["auto", "grouped", "grouped_channels_last", "per_image", "basis"]


class Routing:
    """Holds the routing vectors [B, K] for the length of one forward pass, and nothing before or after it."""

    def __init__(self) -> None:
        self._vectors: Tensor | None = None

    @contextmanager
    def use(self, vectors: Float[Tensor, "B K"]) -> Iterator[None]:
        outer, self._vectors = self._vectors, vectors
        try:
            yield
        finally:
            self._vectors = outer

    @property
    def vectors(self) -> Float[Tensor, "B K"]:
        """Raises RuntimeError outside of `use`."""
        if self._vectors is None:
            raise RuntimeError(
                "an AAConv2d was called without routing vectors: call its network, or wrap the call in "
                "`with routing.use(vectors):` with the Routing that the layer was built with"
            )
        return self._vectors


class AAConv2d(nn.Module):
    """K copies of a plain convolution, each perturbed a little; same geometry, same call.

    Args:
        conv: where geometry and weights come from; any kernel size, stride, dilation and groups, zero padding.
        num_kernels: K.
        routing: the cell that the network fills.
        perturbation: standard deviation of the seeded noise on each kernel, relative to that of the kernel; it breaks
            the symmetry between the K copies. 0 gives exact copies (the authors' warm start).
        generator: of that noise; may be None only when there is none.
        execution: how the mixture is computed; equal in result. `auto` chooses by shape.

    Parameters are ``weight [K, out, in/groups, kh, kw]`` and ``bias [K, out]`` (or None). ``recompute`` saves memory:
    the kernels of a batch are as large as B plain networks, and mixing them costs next to nothing.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        num_kernels: int,
        routing: Routing,
        perturbation: float = 1e-2,
        generator: torch.Generator | None = None,
        execution: Execution = "auto",
    ) -> None:
        super().__init__()
        if conv.padding_mode != "zeros":
            raise ValueError(f"AAConv2d pads with zeros, but {conv} has padding_mode={conv.padding_mode!r}")
        self.num_kernels = num_kernels
        self.routing = routing
        self.execution = execution
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.recompute = False  # whether a backward pass mixes the kernels again instead of finding them kept
        self.weight = nn.Parameter(self._stack(conv.weight))
        self.bias = None if conv.bias is None else nn.Parameter(self._stack(conv.bias))
        self.copy_plain(conv.weight, conv.bias, perturbation, generator)

    def _stack(self, plain: Tensor) -> Tensor:
        return plain.detach().expand(self.num_kernels, *plain.shape).clone()

    @torch.no_grad()
    def copy_plain(
        self,
        weight: Float[Tensor, "out in kh kw"],
        bias: Float[Tensor, " out"] | None,
        perturbation: float,
        generator: torch.Generator | None,
    ) -> None:
        """Make every kernel this plain one, plus noise of ``perturbation`` times its standard deviation."""
        self.weight.copy_(weight.expand_as(self.weight))
        if perturbation > 0:
            if generator is None:
                raise ValueError(f"perturbation={perturbation} needs a generator; only perturbation=0 needs none")
            noise = torch.randn(self.weight.shape, generator=generator, device=generator.device)
            self.weight.add_(noise.to(self.weight) * perturbation * weight.std(correction=0))
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias.expand_as(self.bias))

    def forward(self, x: Float[Tensor, "B in H W"]) -> Float[Tensor, "B out h w"]:
        vectors = self.routing.vectors
        if vectors.shape != (x.shape[0], self.num_kernels):
            raise ValueError(
                f"routing vectors {tuple(vectors.shape)} do not fit {len(x)} images and K = {self.num_kernels} kernels"
            )
        execution = fastest(self, x) if self.execution == "auto" else self.execution
        images = x.shape[0] if execution == "basis" else self.images_at_once(x)  # len() would fix it in an export
        if x.shape[0] <= images:
            return EXECUTIONS[execution](self, x, vectors)
        chunks = zip(x.split(images), vectors.split(images), strict=True)
        return torch.cat([EXECUTIONS[execution](self, *chunk) for chunk in chunks])

    def images_at_once(self, x: Float[Tensor, "B in H W"]) -> int | torch.SymInt:
        """Those whose own kernels may exist at one time on the device of ``x``; all of them where nothing limits it."""
        limit = choices_on(x.device.type).mixed_bytes
        return x.shape[0] if limit is None else max(1, limit * self.num_kernels // self.weight.nbytes)

    def signature(self, height: int, width: int) -> str:
        """What tells it, on maps of this size, from layers that another execution may suit better."""
        kernel, stride, dilation = ("x".join(map(str, pair)) for pair in (self.kernel_size, self.stride, self.dilation))
        channels = f"{self.in_channels} to {self.out_channels} in {self.groups}"
        return f"{channels}, {kernel} by {stride} over {dilation}, K {self.num_kernels}, at {height}x{width}"

    @property
    def is_pointwise(self) -> bool:
        """Whether an output cell sees the input cell at its place and no other, with all channels."""
        alone = self.kernel_size == (1, 1) and self.stride == (1, 1) and self.padding in ((0, 0), "valid", "same")
        return alone and self.groups == 1

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernels={self.num_kernels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        )

    def channels_last(self) -> None:
        """Lay the kernels out as `torch.channels_last` would; convolutions with them then say channels last."""
        self.weight.data = self.weight.data.movedim(2, -1).contiguous().movedim(-1, 2)

    def mixed(self, vectors: Float[Tensor, "B K"]) -> tuple[Float[Tensor, "B out in kh kw"], Tensor | None]:
        """Every image's own kernel and bias."""
        return self.mixed_weight(vectors), None if self.bias is None else vectors @ self.bias

    def mixed_weight(self, vectors: Float[Tensor, "B K"]) -> Float[Tensor, "B out in kh kw"]:
        if self.weight.is_contiguous():
            return (vectors @ self.weight.flatten(1)).view(-1, *self.weight.shape[1:])
        last = self.weight.movedim(2, -1)
        return (vectors @ last.flatten(1)).view(-1, *last.shape[1:]).movedim(-1, 2)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int | torch.SymInt) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)


@contextmanager
def _mixing_again(layer: AAConv2d, convolved: Float[Tensor, "..."], vectors: Float[Tensor, "B K"]) -> Iterator[None]:
    """Inside, where ``layer.recompute`` says so, the graph does not keep ``convolved``, the mixed kernels in any shape:
    its backward mixes them again.

    Of nested hooks PyTorch calls the innermost alone, so a checkpoint around this would keep everything else: who
    checkpoints sets ``recompute`` to False.
    """
    if not layer.recompute or torch.compiler.is_compiling():
        yield
        return
    storage, each, vectors = convolved.untyped_storage().data_ptr(), layer.weight[0].numel(), vectors.detach()

    def pack(saved: Tensor) -> Any:
        if saved.untyped_storage().data_ptr() != storage:
            return saved
        return saved.storage_offset() // each, saved.shape, saved.stride(), saved.dtype

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        first, shape, stride, dtype = kept
        with torch.no_grad():
            again = layer.mixed_weight(vectors[first : first + shape.numel() // each])
        return torch.empty_strided(shape, stride, dtype=dtype, device=again.device).copy_(again.reshape(shape))

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def grouped(
    layer: AAConv2d, x: Tensor, vectors: Tensor, layout: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """One convolution for the batch: the images become groups, each with its own kernel.

    For a pointwise layer that is a product of matrices for each image.
    """
    weight, bias = layer.mixed(vectors)
    if layer.is_pointwise:
        kernels, pixels = weight.flatten(2), x.flatten(2)
        with _mixing_again(layer, kernels, vectors):
            y = kernels @ pixels if bias is None else torch.baddbmm(bias[:, :, None], kernels, pixels)
        return y.view(x.shape[0], -1, *x.shape[2:])
    images = x.reshape(1, -1, *x.shape[2:]).contiguous(memory_format=layout)
    kernels = weight.flatten(0, 1).contiguous(memory_format=layout)
    del weight  # where the layout made a copy of it
    with _mixing_again(layer, kernels, vectors):
        y = layer.convolve(images, kernels, None if bias is None else bias.flatten(), x.shape[0] * layer.groups)
    return y.view(x.shape[0], -1, *y.shape[2:])


def grouped_channels_last(layer: AAConv2d, x: Tensor, vectors: Tensor) -> Tensor:
    """As `grouped`, channel by channel of a pixel, which is how tensor cores of a GPU read; on a CPU the same as that.

    There, in that layout, a grouped convolution in double precision was seen to give wrong gradients (2.15).
    """
    return grouped(layer, x, vectors, torch.contiguous_format if x.device.type == "cpu" else torch.channels_last)


def per_image(layer: AAConv2d, x: Tensor, vectors: Tensor) -> Tensor:
    """One convolution an image, with its own kernel."""
    weight, bias = layer.mixed(vectors)
    biases = [None] * len(x) if bias is None else list(bias)
    images = zip(x.split(1), weight, biases, strict=True)
    with _mixing_again(layer, weight, vectors):
        return torch.cat([layer.convolve(image, kernel, b, layer.groups) for image, kernel, b in images])


def basis(layer: AAConv2d, x: Tensor, vectors: Tensor) -> Tensor:
    """All K convolutions of the whole batch, then their outputs mixed: K times the arithmetic, no kernel per image."""
    groups, kernels = layer.groups, layer.num_kernels
    by_group = layer.weight.unflatten(1, (groups, -1)).transpose(0, 1)  # [groups, K, out/groups, in/groups, kh, kw]
    y = layer.convolve(x, by_group.flatten(0, 2), None, groups).unflatten(1, (groups, kernels, -1))
    mixed = torch.einsum("bgkohw,bk->bgohw", y, vectors).flatten(1, 2)
    return mixed if layer.bias is None else mixed + (vectors @ layer.bias)[:, :, None, None]


EXECUTIONS: dict[str, Callable[[AAConv2d, Tensor, Tensor], Tensor]] = {
    "grouped": grouped,
    "grouped_channels_last": grouped_channels_last,
    "per_image": per_image,
    "basis": basis,
}


def fastest(layer: AAConv2d, x: Tensor) -> str:
    """The execution that takes the least time for forward + gradients to input and routing, parameters frozen.

    As `robustdet.defences.aa_choices` has it measured; where that does not know the layer, by rules with its numbers,
    found layer by layer with K = 4 on one and two CPU threads, SSD300 at batch 8, the tiny network at 8 to 64 and with
    K = 2 to 16; the order was the same where kernels ask for gradients too. `basis` wins where a kernel has few cells
    to visit (5x5: 2.8 ms against 4.7 and 6.4), because no kernel per image is made; elsewhere it pays for its K-fold
    arithmetic. With K = 1 it is a plain convolution.
    `grouped` and `per_image` are equal at most of SSD300's layers; small ones want `grouped` (24x24, 32 channels: 1.9
    against 4.2 ms), odd numbers of channels (class head at 38x38: 88 against 215 ms) and large maps (conv1_2: 0.48
    against 0.63 s) `per_image`. At batch 1 they are the same convolution. On other devices `grouped` saves the B
    launches (not measured).
    MobileNetV2 at batch 4 and 16, 128 pixels: pointwise layers want `grouped`, which multiplies matrices, whatever
    their size (160 → 960 channels at 4x4: 19 against 14 and 14 ms at worst, 192 → 64 at 8x8: 1.8 against 4.1 and 2.9);
    depthwise ones never `basis`, whose arithmetic saves no kernel worth the name (960 channels at 4x4: 2.1 against 39).
    """
    if layer.num_kernels == 1:
        return "basis"
    choices = choices_on(x.device.type)
    if choices.layers and (known := choices.layers.get(layer.signature(x.shape[2], x.shape[3]))):
        return known
    cells = x.shape[2] * x.shape[3]
    if layer.is_pointwise:
        return "grouped"
    if layer.groups == 1 and layer.num_kernels * cells <= choices.basis_work * math.prod(layer.stride):
        return "basis"
    if choices.grouped_cells is None or len(x) == 1:
        return "grouped"
    blocked = layer.in_channels % choices.block == 0 and layer.out_channels % choices.block == 0
    return "grouped" if blocked and cells <= choices.grouped_cells else "per_image"


def convert_convolutions(
    module: nn.Module,
    num_kernels: int,
    routing: Routing,
    perturbation: float = 1e-2,
    generator: torch.Generator | None = None,
    execution: Execution = "auto",
) -> nn.Module:
    """The same module with every `nn.Conv2d` in it replaced by an `AAConv2d` that starts from its weights.

    Changes the module in place and returns it; a plain convolution is returned as its replacement. A convolution that
    stands in two places stays one layer. Arguments are those of `AAConv2d`.
    """
    made: dict[int, AAConv2d] = {}
    for name, conv in list(module.named_modules(remove_duplicate=False)):
        if isinstance(conv, nn.Conv2d):
            if id(conv) not in made:
                made[id(conv)] = AAConv2d(conv, num_kernels, routing, perturbation, generator, execution)
            if conv is module:
                return made[id(conv)]
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, made[id(conv)])
    return module
