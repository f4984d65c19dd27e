"""Random numbers that depend on the seed and the image alone: not on batch size, order, process or resumption."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import torch


def image_generators(seed: int, image_ids: Iterable[str], *salt: int | str) -> list[torch.Generator]:
    """One CPU generator per image; ``salt`` tells apart attacks, restarts or epochs that share a seed."""
    return [torch.Generator().manual_seed(_stable_hash(seed, *salt, image_id)) for image_id in image_ids]


def draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """``generator`` where it lies there; else one of that device whose seed it draws: what is large is drawn there."""
    if generator.device.type == device.type:
        return generator
    return torch.Generator(device).manual_seed(draw_seed(generator))


def _stable_hash(*parts: int | str) -> int:
    # Python's own hash of a string differs from process to process
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
