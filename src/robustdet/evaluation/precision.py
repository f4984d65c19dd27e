"""How exactly a GPU or CPU multiplies while a detector is judged: without TF32, whatever training was allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
    before, older = [switch.fp32_precision for switch in switches], _older()
    if older is not None:
        _set_older("highest", False)
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        if older is not None:
            _set_older(*older)
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def _older() -> tuple[str, bool] | None:
    """PyTorch's switches of before, of matrix products and of convolutions, which libraries still read.

    It refuses to say while they and the newer ones differ: so both are turned. None where somebody has turned the newer
    ones alone.
    """
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _set_older(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
