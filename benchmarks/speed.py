"""What the profiles of `conf/speed` give: an update of RobustDet* by each over one by `exact`, and lever by lever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.timing import interleaved
from benchmarks.training import method
from robustdet.cli.building import plain
from robustdet.cli.composition import composed
from robustdet.training.levers import Levers

AIM = 0.5


def profile(name: str) -> dict[str, Any]:
    return plain(composed("train", [f"speed={name}", "paths.run=unused"]).speed)


class Update:
    """One call: attack step, forward, full backward, the optimiser's step, as a training by this profile makes them.

    On half as many clean images as ``images``, which pass once more by the attacked images' routes.
    """

    def __init__(self, setting: Setting, images: int, speed: Mapping[str, Any]) -> None:
        aware = f"adversarially_aware={speed['adversarially_aware']}"
        self.model = setting.build(setting.cfr_model, aware).train().requires_grad_(True)
        self.method = method(crossed_branch="clean")
        self.batch = setting.batch_of(images // 2, self.model.input_size)
        self.mixed = torch.autocast(setting.device.type, torch.bfloat16, enabled=speed["precision"] == "bf16-mixed")
        Levers(channels_last=speed["channels_last"], compile=speed["compile"]).apply(self.model, self.method)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6, momentum=0.9, fused=speed["fused"])

    def __call__(self) -> None:
        with self.mixed:
            loss = self.method.step(self.model, self.batch, torch.Generator()).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(setting: Setting) -> Iterator[Row]:
    """The profile, then each of its levers alone; none of them compiles, which takes minutes."""
    exact, fast = profile("exact"), profile("fast")
    kinds = {"speed=fast": fast}
    kinds |= {f"{key}={value} alone": {**exact, key: value} for key, value in fast.items() if value != exact[key]}
    del kinds["name=fast alone"]
    yield from compared(setting, kinds, bounds={"speed=fast": AIM})


def compiled(setting: Setting) -> Iterator[Row]:
    """Minutes, as it is compiled before it is timed."""
    kinds = {"compile=default": {**profile("exact"), "compile": "default"}}
    if setting.device.type == "cuda":
        kinds = {"speed=fast_gpu": profile("fast_gpu")} | kinds
    yield from compared(setting, kinds)


def compared(
    setting: Setting, kinds: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, float] | None = None
) -> Iterator[Row]:
    """An update by each of ``kinds`` beside one by `exact`; two networks at a time, for each may be a gigabyte."""
    images = 2 * setting.batch
    plainly = Update(setting, images, profile("exact"))
    for kind, speed in kinds.items():
        works = {"exact": plainly, kind: Update(setting, images, speed)}
        seconds = interleaved(works, max(1, setting.repeats - 1), setting.device)
        yield Row(
            "speed",
            f"an update of RobustDet* by {kind} / by speed=exact",
            seconds[kind] / seconds["exact"],
            bound=(bounds or {}).get(kind),
            note=f"{setting.cfr_model}, {images} images, replay, crossed branch",
            seconds=seconds,
        )
