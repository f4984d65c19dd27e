"""Random numbers that depend on the seed and the image alone: not on batch size, order, process or resumption."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import torch


def image_generators(seed: int, image_ids: Iterable[str], *salt: int | str) -> list[torch.Generator]:
    """One CPU generator per image; ``salt`` tells apart attacks, restarts or epochs that share a seed."""
    return [torch.Generator().manual_seed(_stable_hash(seed, *salt, image_id)) for image_id in image_ids]


def _stable_hash(*parts: int | str) -> int:
    # Python's own hash of a string differs from process to process
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
