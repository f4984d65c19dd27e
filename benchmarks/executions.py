"""What adversarially-aware convolutions cost: RobustDet against plain SSD plus its discriminator alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.steps import bare
from benchmarks.timing import interleaved
from robustdet.defences.aa_conv import EXECUTIONS, AAConv2d
from robustdet.evaluation.precision import factors_of_10_bits


def measure(setting: Setting) -> Iterator[Row]:
    plain, robust = setting.build(setting.model), setting.build(setting.robust_model)
    images = setting.batch_of(setting.aa_batch, robust.input_size).images

    def routing_detached() -> None:
        with torch.no_grad():
            routing = robust.aid(images)
        bare(lambda leaf: executed(robust, "auto")(leaf, routing=routing), images)

    works: dict[str, Any] = {
        "SSD": lambda: bare(plain, images),
        "AID": lambda: discriminating(robust, images),
        "auto, routing detached": routing_detached,
    }
    works |= {name: lambda name=name: bare(executed(robust, name), images) for name in ("auto", *EXECUTIONS)}
    seconds = interleaved(works, setting.repeats, setting.device)
    floor = seconds["SSD"] + seconds["AID"]
    note = f"{setting.robust_model}, batch {setting.aa_batch}, forward + input-backward"
    for name in ("auto", "auto, routing detached", *EXECUTIONS):
        yield Row(
            "defence",
            f"RobustDet ({name}) / (SSD + AID)",
            seconds[name] / floor,
            bound=1.25 if name == "auto" else None,
            note=note + {"auto": "; an exact gradient to π is a third pass: 1.5 by arithmetic"}.get(name, ""),
            seconds={key: seconds[key] for key in (name, "SSD", "AID")},
        )
    yield equal_results(robust, images[:2])


def discriminating(robust: Any, images: torch.Tensor) -> None:
    """Forward and input-backward of the discriminator alone."""
    leaf = images.detach().requires_grad_()
    torch.autograd.grad(robust.aid(leaf).square().sum(), leaf)


def executed(model: Any, execution: str) -> Any:
    for module in model.modules():
        if isinstance(module, AAConv2d):
            module.execution = execution  # type: ignore[assignment]
    return model


@torch.no_grad()
def equal_results(model: Any, images: torch.Tensor) -> Row:
    with factors_of_10_bits(False):
        logits = [executed(model, name)(images).cls_logits for name in EXECUTIONS]
    spread = max(float((one - logits[0]).abs().max()) for one in logits) / float(logits[0].abs().max())
    return Row("defence", "executions: largest difference of a logit / the largest logit", spread, "", 1e-4)
