"""NaN and infinity in a network: finding the layer to blame, or hiding NaN as the published code does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from robustdet.errors import NumericalError


def zero_nan(layers: Iterable[nn.Module]) -> None:
    """From now on, 0 stands for NaN in what these layers say."""
    for layer in layers:
        layer.register_forward_hook(_without_nan)


def _without_nan(layer: nn.Module, inputs: Any, output: Any) -> Any:
    return torch.where(output.isnan(), 0, output) if isinstance(output, Tensor) else output


def first_non_finite_layer(network: nn.Module, rerun: Callable[[], Any]) -> str | None:
    """Name of the first module of ``network`` whose output is not finite while ``rerun`` runs it, or None.

    Containers finish after their children, so that a single layer is named wherever one is to blame.
    """
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # a compiled graph has no layers
            rerun()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def require_finite(network: nn.Module, said: Iterable[Tensor], images: Tensor, rerun: Callable[[], Any]) -> None:
    """Raises NumericalError, with the first layer to blame, where what a network ``said`` of images is not finite."""
    if all(bool(tensor.isfinite().all()) for tensor in said):
        return
    layer = first_non_finite_layer(network, rerun)
    culprit = f"first in layer {layer}" if bool(images.isfinite().all()) else "and so are the images"
    raise NumericalError(f"predictions are not finite, {culprit}")
