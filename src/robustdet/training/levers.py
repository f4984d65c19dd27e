"""Levers: what makes the same computation faster or smaller on some machines. Each is a yaml value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from robustdet.defences.aa_conv import AAConv2d
from robustdet.detection.backbones.backbone import Backbone
from robustdet.detection.backbones.residual import Residual
from robustdet.errors import InputError, KindError
from robustdet.evaluation.precision import factors_of_10_bits
from robustdet.graphs import WholeGraphs

Mode: TypeAlias = Literal["default", "reduce-overhead", "max-autotune"]
GRAPHS = 64  # of one method of one class
CLONING = "cudagraph_trees_generation_cloning"  # torch 2.15 has it; before, an attack on CUDA graphs is an error
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # modes that record them
PLAIN_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Levers(pl.Callback):
    """Changes how the module's ``model`` computes, before it is first used; state dicts stay what they were.

    Args:
        channels_last: kernels and, by them, activations are laid out channel by channel of a pixel.
        recompute: an update keeps neither the mixed kernels of AA-convolutions nor the activations inside the
            backbone's blocks (from pool to pool, or residual), and computes them again in its backward pass. An attack
            does so with the kernels only.
        compile: the mode of `torch.compile` for the detector and for what its method computes; the first steps take
            minutes. None compiles nothing. `reduce-overhead` and `max-autotune` record CUDA graphs on a GPU.
        tf32: whether convolutions and matrix products of a GPU may round their factors to 10 bits; None leaves it to
            torch, which allows it for convolutions.
    """

    def __init__(
        self,
        channels_last: bool = False,
        recompute: bool = False,
        compile: Mode | None = None,
        tf32: bool | None = None,
    ) -> None:
        self.channels_last = channels_last
        self.recompute = recompute
        self.compile = compile
        self.tf32 = tf32
        self.switches = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.switches.enter_context(factors_of_10_bits(self.tf32))
        if self.compile is not None:
            synchronised = stage == "fit" and _synchronised(trainer, pl_module.model)  # type: ignore[arg-type]
            require_compilable(self.compile, trainer.strategy.root_device, synchronised)
        self.apply(pl_module.model, getattr(pl_module, "method", None))  # type: ignore[arg-type]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.switches.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.switches.close()

    def apply(self, model: nn.Module, method: object = None) -> None:
        """All but ``tf32``, which is no property of a model; ``method`` is what trains it."""
        if self.channels_last:
            lay_channels_last(model)
        if self.recompute:
            recompute_in_backward(model)
        if self.compile is not None:
            prepare_compilation()
            model.compile(mode=self.compile)
            if isinstance(method, WholeGraphs):
                method.compile(mode=self.compile)


def require_compilable(mode: Mode, device: torch.device, synchronised: bool) -> None:
    """Raises InputError where compiled steps are known to fail: on a GPU, or among several, hours may be lost."""
    from torch._inductor import config as inductor

    if mode in CUDA_GRAPHS and device.type == "cuda" and not hasattr(inductor.triton, CLONING):
        raise InputError(
            f"callbacks.levers.compile={mode} records CUDA graphs, in which MTD's two candidates overwrite each other "
            f"before torch 2.15, and this is {torch.__version__}: compile=default records none"
        )
    if synchronised:
        raise InputError(
            f"callbacks.levers.compile={mode} makes one graph of a pass, and batch norm that several processes share "
            "(sync_batchnorm) breaks it: train with callbacks.levers.compile=null, or on one device"
        )


def _synchronised(trainer: pl.Trainer, model: nn.Module) -> bool:
    """Whether Lightning will have norms of a model whose passes are whole graphs share their statistics."""
    shares = getattr(trainer.strategy, "_layer_sync", None) is not None and trainer.world_size > 1
    whole = isinstance(model, WholeGraphs)
    return shares and whole and any(isinstance(one, _BatchNorm) for one in model.modules())


def prepare_compilation() -> None:
    """What steps here ask of compiled graphs, beyond what they do by themselves."""
    from torch._inductor import config as inductor  # slow to import, and seldom needed

    # MTD asks one forward for two gradients, which a graph refuses once it gave its buffers away
    torch._functorch.config.donated_buffer = False
    # training and evaluation mode, with and without gradients, each number of images: a graph for each
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    # MTD looks at the losses of two candidates, the second of which would overwrite the first where CUDA graphs run
    if hasattr(inductor.triton, CLONING):
        setattr(inductor.triton, CLONING, "user_visible")


def lay_channels_last(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, AAConv2d):
            module.channels_last()
        elif isinstance(module, PLAIN_CONVOLUTIONS):
            module.to(memory_format=torch.channels_last)


def recompute_in_backward(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, AAConv2d):
            module.recompute = True
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise KindError(f"expected a Backbone to recompute, got {type(backbone).__name__}")
    backbone.__class__ = RecomputedLayers


BLOCK_ENDS = (nn.MaxPool2d, Residual)


class RecomputedLayers(Backbone):
    """While weights learn, the graph keeps only what goes from block to block; a max-pool or a `Residual` ends one."""

    def forward(
        self, x: Float[Tensor, "B c h w"], start: int = 0, stop: int | None = None
    ) -> tuple[Float[Tensor, "B c2 h2 w2"], list[Float[Tensor, "B _ _ _"]]]:
        learning = any(parameter.requires_grad for parameter in self.parameters())
        if not (learning and torch.is_grad_enabled()):
            return super().forward(x, start, stop)
        stop, sources = len(self.layers) if stop is None else stop, []
        ends = [index + 1 for index, layer in enumerate(self.layers) if isinstance(layer, BLOCK_ENDS)]
        for block in pairwise([start, *(end for end in ends if start < end < stop), stop]):
            x, found = checkpoint(
                super().forward, x, *block, use_reentrant=False, preserve_rng_state=False, context_fn=self._passes
            )
            sources += found
        return x, sources

    def _passes(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """What surrounds a block's first and second pass: by the second, the routing cell has been emptied."""
        layers = [layer for layer in self.layers.modules() if isinstance(layer, AAConv2d)]
        if not layers:
            return nullcontext(), nullcontext()
        cell = layers[0].routing
        return _mixing_once(layers), _mixing_once(layers, cell.use(cell.vectors))


@contextmanager
def _mixing_once(layers: list[AAConv2d], routing: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """The block's checkpoint drops the mixed kernels with all else; the layers' own hooks would be in its way."""
    for layer in layers:
        layer.recompute = False
    try:
        with routing or nullcontext():
            yield
    finally:
        for layer in layers:
            layer.recompute = True
