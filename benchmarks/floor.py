"""How far each step is from the arithmetic that it cannot avoid, at the rate that this device was measured to have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.arithmetic import counted
from benchmarks.executions import executed
from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.steps import BALL, bare, forward
from benchmarks.timing import interleaved
from benchmarks.training import A_STEP, TrainingStep
from robustdet.attacks import PGD, DetectorVictim, image_generators
from robustdet.attacks.objectives import a_cls
from robustdet.defences.aa_conv import AAConv2d
from robustdet.evaluation.precision import factors_of_10_bits

KINDS = ("float32", "TF32", "bfloat16")  # of factors, in a matrix product; TF32 is a GPU's


def measure(setting: Setting) -> Iterator[Row]:
    rates = {}
    for kind in KINDS:
        if kind == "TF32" and setting.device.type != "cuda":
            continue
        rates[kind] = rate(setting, kind)
        yield Row("floor", f"matrix product, {kind}", rates[kind], "TFLOP/s", note="the largest of three sizes")
    with factors_of_10_bits(False):  # one rate for all operations, which torch's default has not
        for step in steps(setting):
            yield against_floor(setting, step, rates["float32"])


def rate(setting: Setting, kind: str) -> float:
    """10¹² operations a second of the best of some square matrix products."""
    best = 0.0
    for size in (1024, 2048, 4096) if setting.device.type == "cpu" else (4096, 8192, 12288):
        dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
        factor = torch.rand(size, size, device=setting.device, dtype=dtype)
        with factors_of_10_bits(kind == "TF32"):
            works = {"product": partial(torch.matmul, factor, factor)}
            seconds = interleaved(works, setting.repeats, setting.device)
        best = max(best, 2 * size**3 / seconds["product"] / 1e12)
    return best


@dataclass(frozen=True)
class Step:
    """Something to time: ``work`` of ``model`` on so many images."""

    title: str
    images: int
    model: Any
    work: Callable[[], Any]


def steps(setting: Setting) -> Iterator[Step]:
    for name in (setting.model, setting.robust_model):
        model = setting.build(name)
        batch = setting.batch_of(setting.batch, model.input_size)
        generators = image_generators(0, [target.image_id for target in batch.targets])
        attack = PGD(a_cls, BALL, setting.steps, "2/255")
        works: dict[str, Callable[[], Any]] = {
            "forward": partial(forward, model, batch.images),
            "forward + input-backward": partial(bare, model, batch.images),
            f"{setting.steps} steps of PGD": partial(
                attack, DetectorVictim(model), batch.images, batch.targets, generators
            ),
        }
        yield from (Step(f"{name}, {title}", len(batch), model, work) for title, work in works.items())
    training = TrainingStep(setting, setting.train_batch)
    yield Step(f"{setting.cfr_model}, {A_STEP}", setting.train_batch, training.model, training)


def against_floor(setting: Setting, step: Step, peak: float) -> Row:
    """Seconds over those of the arithmetic alone at ``peak`` (10¹² operations a second)."""
    aware = {layer: layer.execution for layer in step.model.modules() if isinstance(layer, AAConv2d)}
    executed(step.model, "per_image")  # torch's formula counts the backward pass of groups as if they were one
    teraflop = counted(step.work)
    for layer, execution in aware.items():
        layer.execution = execution
    seconds = interleaved({"step": step.work}, max(1, setting.repeats - 2), setting.device)["step"]
    sustained = teraflop / seconds
    note = f"{step.images} images, {teraflop:.3g} TFLOP in {seconds:.3g} s: {sustained:.3g} TFLOP/s sustained"
    return Row("floor", f"{step.title} / its arithmetic", peak / sustained, note=note, seconds={"step": seconds})
