"""How exactly a GPU or CPU multiplies while a detector is judged: without TF32, whatever training was allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

EXPECTED = "32-true, TF32 off"  # what a number in a table is measured in


def judged_in(precision: str) -> str:
    """As a record says it. ``precision`` is Lightning's: 32-true, 16-true, …"""
    return f"{precision}, TF32 off"


@contextmanager
def whole_factors() -> Iterator[None]:
    """Convolutions and matrix products round no factor of theirs to 10 bits (TF32) or 8 (bfloat16).

    These are switches of the whole process; on leaving, by an error too, each is what it was. An attack that is made
    on rounded convolutions flatters the detector.
    """
    backends: Any = torch.backends
    switches = (
        backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn,
        backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn,
    )  # fmt: skip
    before = [switch.fp32_precision for switch in switches]
    try:
        # The older switches, which libraries read, too: torch refuses to say while they and the newer ones differ.
        with factors_of_10_bits(False) if _older_are_read() else nullcontext():
            for switch in switches:
                switch.fp32_precision = "ieee"
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


@contextmanager
def factors_of_10_bits(allowed: bool | None) -> Iterator[None]:
    """The older of PyTorch's switches of TF32, put back on leaving for the next job of a sweep; None leaves them alone.

    Raises RuntimeError where somebody has turned the newer ones alone.
    """
    if allowed is None:
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _older_are_read() -> bool:
    """Whether PyTorch says how they stand: it does not where somebody has turned the newer ones alone."""
    try:
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return False
    return True
