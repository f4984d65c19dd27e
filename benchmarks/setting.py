"""What is measured on: sizes, networks as their yaml describes them, and batches of noise with objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from robustdet.cli.building import without_start
from robustdet.types import Batch, Target

CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass(frozen=True)
class Setting:
    """Sizes of the benchmark; ``model`` and ``robust_model`` name members of the config group `model`."""

    device: torch.device
    model: str
    robust_model: str
    cfr_model: str
    batch: int  # images of an attack step
    reference_batch: int  # images of the comparison with torchvision's SSD300
    aa_batch: int  # images of the comparison of AA-convolution executions
    train_batch: int  # images of a training step, half of them adversarial
    post_batch: int  # images of the comparison of post-processing
    eval_images: int
    steps: int  # of an attack on unchanged weights
    ap_images: int
    foreign_batch: int  # images of an attack step on torchvision's detectors
    foreign_size: int  # their height and width, pixels
    repeats: int

    def build(self, name: str, *overrides: str, num_classes: int = 20) -> Any:
        """The network on the device, in evaluation mode, its parameters asking for no gradient."""
        torch.manual_seed(0)
        with initialize_config_dir(str(CONF / "model"), version_base=None):
            config = compose(name, overrides=list(overrides))
        return instantiate(without_start(config), num_classes=num_classes).to(self.device).eval().requires_grad_(False)

    def batch_of(self, count: int, size: int, objects: int = 3, seed: int = 0) -> Batch:
        """``count`` images of noise, each with ``objects`` random boxes."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(count, 3, size, size, generator=generator)
        return Batch(images, [_target(i, size, objects, generator) for i in range(count)]).to(self.device)


def _target(index: int, size: int, objects: int, generator: torch.Generator) -> Target:
    low = torch.rand(objects, 2, generator=generator) * 0.6 * size
    extent = (0.1 + 0.3 * torch.rand(objects, 2, generator=generator)) * size
    return Target(
        boxes=torch.cat([low, low + extent], dim=1),
        labels=torch.randint(1, 21, (objects,), generator=generator),
        difficult=torch.zeros(objects, dtype=torch.bool),
        crowd=torch.zeros(objects, dtype=torch.bool),
        image_id=f"noise_{index:04d}",
        original_size=(size, size),
    )


def settings(device: torch.device, quick: bool) -> dict[str, Any]:
    """Defaults: minutes on a CPU; ``quick`` takes about a minute, on the tiny model."""
    full = {"model": "ssd300", "robust_model": "robust_ssd300", "cfr_model": "robust_ssd300_cfr"}
    tiny = {"model": "tiny_ssd", "robust_model": "tiny_robust_ssd", "cfr_model": "tiny_robust_ssd_cfr"}
    names = (
        "batch", "reference_batch", "aa_batch", "train_batch", "post_batch", "eval_images", "steps", "ap_images",
        "foreign_batch", "foreign_size",
    )  # fmt: skip
    if quick:
        return tiny | dict(zip(names, (4, 1, 8, 8, 8, 16, 3, 200, 1, 128), strict=True)) | {"repeats": 3}
    if device.type == "cpu":
        return full | dict(zip(names, (2, 2, 8, 8, 32, 16, 2, 4952, 2, 320), strict=True)) | {"repeats": 3}
    return full | dict(zip(names, (16, 16, 8, 32, 32, 64, 20, 4952, 16, 640), strict=True)) | {"repeats": 7}


def doubling(last: int) -> Sequence[int]:
    return [2**i for i in range(last.bit_length()) if 2**i <= last]
