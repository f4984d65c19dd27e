"""How cost grows with the work: sweeps, the exponent fitted to each, and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.rows import Row
from benchmarks.setting import Setting, doubling
from benchmarks.steps import BALL, bare
from benchmarks.timing import interleaved
from robustdet.attacks import PGD, DetectorVictim, image_generators
from robustdet.attacks.objectives import a_cls

SLACK = 1.1  # a fitted exponent up to here counts as linear: it is a measurement


@dataclass(frozen=True)
class Sweep:
    """Seconds by amount of work; ``exponent`` of the power law through the upper half, where overheads have faded."""

    name: str
    amounts: list[int]
    seconds: list[float]
    note: str

    @property
    def exponent(self) -> float:
        half = len(self.amounts) // 2 - 1
        return float(np.polyfit(np.log(self.amounts[half:]), np.log(self.seconds[half:]), 1)[0])

    def row(self) -> Row:
        seconds = {str(amount): value for amount, value in zip(self.amounts, self.seconds, strict=True)}
        note = f"{self.amounts[0]} to {self.amounts[-1]}, {self.note}"
        return Row("growth", f"seconds ~ ({self.name})^a: a", self.exponent, "", SLACK, note=note, seconds=seconds)


def sweep(setting: Setting, name: str, works: dict[int, Callable[[], Any]], note: str) -> Sweep:
    seconds = interleaved({str(amount): work for amount, work in works.items()}, setting.repeats, setting.device)
    return Sweep(name, list(works), list(seconds.values()), note)


def measure(setting: Setting) -> list[Sweep]:
    """On the small model, whose costs are the same ones: every sweep ends within seconds on a CPU."""
    plain = setting.build("tiny_ssd")
    fixed = setting.batch_of(8, 96)
    generators = image_generators(0, [target.image_id for target in fixed.targets])

    def attack(steps: int) -> Any:
        return PGD(a_cls, BALL, steps, "2/255")(DetectorVictim(plain), fixed.images, fixed.targets, generators)

    def network(name: str, batch: int, *overrides: str, size: int = 96) -> Callable[[], None]:
        model = setting.build(name, *overrides) if overrides else plain
        images = setting.batch_of(batch, size).images
        return lambda: bare(model, images)

    def matching(objects: int) -> Callable[[], Any]:
        targets = setting.batch_of(8, 96, objects).targets
        return lambda: plain.assign(targets)

    batches = doubling(64)
    return [
        sweep(setting, "images", {n: network("tiny_ssd", n) for n in batches}, "tiny_ssd"),
        sweep(
            setting,
            "kernels K",
            {k: network("tiny_robust_ssd", 8, f"num_kernels={k}") for k in doubling(16)},
            "tiny_robust_ssd, batch 8",
        ),
        sweep(
            setting,
            "pixels",
            {s * s: network("tiny_ssd", 4, f"input_size={s}", size=s) for s in (96, 144, 192, 288, 384)},
            "tiny_ssd, batch 4",
        ),
        sweep(setting, "attack steps", {n: partial(attack, n) for n in doubling(16)}, "PGD, tiny_ssd, batch 8"),
        sweep(setting, "objects an image", {n: matching(n) for n in doubling(128)}, "matching, 8 images"),
    ]


def plot(sweeps: Sequence[Sweep], machine: str, path: Path) -> None:
    figure, axes = plt.subplots(1, len(sweeps), figsize=(3.0 * len(sweeps), 3.2), layout="constrained")
    for axis, one in zip(axes, sweeps, strict=True):
        amounts, seconds = np.array(one.amounts), np.array(one.seconds)
        axis.loglog(amounts, seconds, "o-", label=f"a = {one.exponent:.2f}")
        axis.loglog(amounts, seconds[-1] * amounts / amounts[-1], ":", color="grey", label="linear")
        axis.set(xlabel=one.name, ylabel="seconds", title=one.note)
        axis.title.set_fontsize(9)
        axis.legend(fontsize=8)
    figure.suptitle(machine, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
