"""The executions of adversarially-aware convolutions layer by layer, and the table that ``auto`` chooses by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.steps import bare
from benchmarks.timing import interleaved
from robustdet.defences import aa_choices
from robustdet.defences.aa_conv import EXECUTIONS, AAConv2d, fastest

HALVES = 2  # chunks that the images of a batch go in, to see what chunks cost


@dataclass(frozen=True)
class Met:
    """A layer and the maps that came to it."""

    layer: AAConv2d
    shape: tuple[int, ...]


def measure(setting: Setting, folder: Path) -> Iterator[Row]:
    """Writes the table into ``folder`` after every layer."""
    model = setting.build(setting.robust_model)
    images = setting.batch_of(setting.aa_batch, model.input_size).images
    seconds: dict[str, Mapping[str, float]] = {}
    chosen: dict[str, str] = {}
    for signature, met in layers(model, images).items():
        seconds[signature] = taken(setting, met)
        chosen[signature] = fastest(met.layer, torch.empty(met.shape, device=setting.device))
        write(setting, seconds, folder)
    auto = sum(seconds[signature][chosen[signature]] for signature in seconds)
    best = sum(min(each.values()) for each in seconds.values())
    note = f"{setting.robust_model}, batch {setting.aa_batch}: the sum over {len(seconds)} different layers"
    title = "AA-convolutions by auto / each by its fastest execution"
    yield Row("layers", title, auto / best, note=note, seconds={"auto": auto, "best": best})
    for execution in executions(setting):
        alone = sum(each[execution] for each in seconds.values())
        wins = sum(min(each, key=each.__getitem__) == execution for each in seconds.values())
        title, sides = f"AA-convolutions all by {execution} / each by its fastest", {execution: alone, "best": best}
        yield Row("layers", title, alone / best, note=f"{note}; the fastest of {wins}", seconds=sides)
    yield in_chunks(setting, model, images)


@torch.no_grad()
def layers(model: Any, images: Tensor) -> dict[str, Met]:
    """Those that differ, by signature."""
    found: dict[str, Met] = {}

    def meet(layer: AAConv2d, inputs: tuple[Tensor]) -> None:
        shape = tuple(inputs[0].shape)
        found.setdefault(layer.signature(*shape[2:]), Met(layer, shape))

    hooks = [one.register_forward_pre_hook(meet) for one in model.modules() if isinstance(one, AAConv2d)]
    model(images)
    for hook in hooks:
        hook.remove()
    return found


def taken(setting: Setting, met: Met) -> dict[str, float]:
    """Seconds of forward and gradients to input and routing, by execution."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(met.shape, generator=generator).to(setting.device).requires_grad_()
    vectors = torch.randn(met.shape[0], met.layer.num_kernels, generator=generator).softmax(1).to(setting.device)
    vectors.requires_grad_()

    def work(execution: str) -> None:
        torch.autograd.grad(EXECUTIONS[execution](met.layer, x, vectors).sum(), (x, vectors))

    return interleaved({name: partial(work, name) for name in executions(setting)}, setting.repeats, setting.device)


def executions(setting: Setting) -> list[str]:
    """Those that differ on the device: on a CPU `grouped_channels_last` is `grouped`, and one of equals would win."""
    return [name for name in EXECUTIONS if setting.device.type != "cpu" or name != "grouped_channels_last"]


def write(setting: Setting, seconds: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """The package's table, with these layers as they were measured."""
    kind = setting.device.type
    layers = {signature: min(each, key=each.__getitem__) for signature, each in seconds.items()}
    known = aa_choices.choices_on(kind).measured(machine(setting.device), layers)
    aa_choices.write({**aa_choices.CHOICES, kind: known}, folder / aa_choices.FILE.name)


def in_chunks(setting: Setting, model: Any, images: Tensor) -> Row:
    """What it costs where the kernels of all images would not fit."""
    largest = max(one.weight.nbytes // one.num_kernels for one in model.modules() if isinstance(one, AAConv2d))
    kind = setting.device.type
    limits = {"together": None, "in chunks": max(1, len(images) // HALVES) * largest}

    def work(limit: int | None) -> None:
        limited = replace(aa_choices.choices_on(kind), mixed_bytes=limit)
        with mock.patch.dict(aa_choices.CHOICES, {kind: limited}):
            bare(model, images)

    works = {name: partial(work, limit) for name, limit in limits.items()}
    seconds = interleaved(works, setting.repeats, setting.device)
    note = (
        f"{setting.robust_model}, batch {len(images)}, the largest layer in {HALVES} chunks; forward + input-backward"
    )
    ratio = seconds["in chunks"] / seconds["together"]
    return Row("layers", "AA-convolutions in chunks / all images at once", ratio, note=note, seconds=seconds)
