"""Weights that a rule makes of names and shapes, so that numbers of another implementation can be compared with ours.

The rule comes with the golden numbers (environment variable ROBUSTDET_GOLDEN): every tensor is drawn by a NumPy
generator seeded with the CRC of its name, and scaled so that activations keep their size through the network.
"""

from __future__ import annotations

import ast
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def golden_state_dict(listing_path: str | Path) -> dict[str, Tensor]:
    """All tensors of a listing whose lines are ``name (shape)``, under the listed names."""
    lines = Path(listing_path).read_text().splitlines()
    shapes = {name: ast.literal_eval(shape) for name, _, shape in (line.partition(" ") for line in lines if line)}
    return {name: torch.from_numpy(np.asarray(_tensor(name, shape, shapes))) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], names: dict[str, tuple[int, ...]]) -> np.ndarray:
    layer, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if kind == "running_mean" or (kind == "bias" and f"{layer}.running_mean" in names):
        return np.zeros(shape, dtype=np.float32)
    if name == "L2Norm.weight":
        return np.full(shape, 20, dtype=np.float32)
    if kind == "running_var" or (kind == "weight" and len(shape) < 2):
        return np.ones(shape, dtype=np.float32)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    return noise * np.float32(0.01 if kind == "bias" else _scale(name, shape))


def _scale(name: str, shape: tuple[int, ...]) -> float:
    fan = math.prod(shape[-3:]) if len(shape) >= 4 else shape[-1]
    factors = (
        (0.6, name.startswith(("loc.", "conf."))),
        (0.5, name.startswith("disc.")),
        (20, name == "disc.base_net.fc.weight"),
        (0.02, name in ("vgg.0.weight", "disc.base_net.conv1.weight")),
        (0.1, "conv_std" in name),
    )
    return math.sqrt(2 / fan) * math.prod(factor for factor, applies in factors if applies)
