"""An attack step on torchvision's detectors against the passes through the network that it cannot avoid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.steps import BALL, MORE_TURNS
from benchmarks.timing import interleaved
from robustdet.attacks import PGD, DetectorVictim, image_generators
from robustdet.attacks.objectives import total
from robustdet.interop.torchvision_dense import in_order

NAMES = ("fasterrcnn_resnet18_fpn", "retinanet_resnet18_fpn", "fcos_resnet18_fpn", "ssd300_vgg16")


def measure(setting: Setting) -> Iterator[Row]:
    for name in NAMES:
        yield step_of(setting, name)


def step_of(setting: Setting, name: str) -> Row:
    size = setting.foreign_size
    own = "null" if name.startswith("ssd") else size  # an SSD resizes to 300, whatever it is given
    model = setting.build(
        "torchvision", f"name={name}", "weights=null", f"input_size={size}", f"min_size={own}", num_classes=20
    )
    batch = setting.batch_of(setting.foreign_batch, size)
    attack = PGD(total, BALL, setting.steps, "2/255")
    generators = image_generators(0, [target.image_id for target in batch.targets])
    works = {
        "PGD": lambda: attack(DetectorVictim(model), batch.images, batch.targets, generators),
        "forward + input-backward": lambda: bare(model.network, batch.images),
    }
    seconds = interleaved(works, setting.repeats + MORE_TURNS, setting.device)
    ratio = seconds["PGD"] / setting.steps / seconds["forward + input-backward"]
    note = f"batch {len(batch)}, {size} pixels, mean of {setting.steps} steps on the whole loss, matching included"
    title = f"one PGD step on {name} / its forward + input-backward"
    return Row("foreign", title, ratio, bound=1.1, note=note, seconds=seconds)


def bare(network: Any, images: Tensor) -> None:
    """torchvision's own passes to what its heads say, with the fewest operations behind them."""
    images = images.detach().requires_grad_()
    prepared, _ = network.transform(list(images))
    features = network.backbone(prepared.tensors)
    if isinstance(network, GeneralizedRCNN):
        proposals, _ = network.rpn(prepared, features)
        heads = network.roi_heads
        seen = heads.box_roi_pool(features, proposals, prepared.image_sizes)
        said = heads.box_predictor(heads.box_head(seen))
    else:
        said = network.head(in_order(features)).values()
    torch.autograd.grad(sum(one.sum() for one in said), images)
