"""Sums and bounds that float32 is too coarse for, on devices that know nothing finer too."""

from __future__ import annotations

from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}  # Apple's GPUs: asking them for float64 is a TypeError


def exact(values: Tensor) -> Tensor:
    """``values`` in float64: where they are, or on the CPU where their device has no float64."""
    return (values.cpu() if values.device.type in WITHOUT_FLOAT64 else values).double()
