"""What each lever gives: seconds with it over seconds without, and how far it moves the result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import speed
from benchmarks.memory import resident
from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.steps import BALL, bare, scalar
from benchmarks.timing import interleaved
from robustdet.attacks import PGD, BFloat16, DetectorVictim, image_generators
from robustdet.attacks.objectives import a_cls
from robustdet.defences.aa_conv import EXECUTIONS
from robustdet.evaluation.precision import factors_of_10_bits
from robustdet.processor import fast_processor
from robustdet.training.levers import Levers


def measure(setting: Setting) -> Iterator[Row]:
    both = setting.model, setting.robust_model
    yield from (effect(setting, name, {"channels_last": True}) for name in both)
    yield effect(setting, setting.robust_model, {"recompute": True}, update)
    yield bfloat16(setting)
    yield from (attack_in_bfloat16(setting, name) for name in both)
    yield fused(setting)
    yield kept_memory(setting)
    on_gpu = setting.device.type == "cuda"
    yield effect(setting, setting.model, {"tf32": True}) if on_gpu else Row("lever", "TF32", None, note="a GPU's")


def compiled(setting: Setting) -> Iterator[Row]:
    """Minutes: each network is compiled for its forward and its gradient; the robust one by each execution, last."""
    yield effect(setting, setting.model, {"compile": "default"})
    yield effect(setting, setting.robust_model, {"compile": "default"}, overrides=["execution=auto"])
    if setting.device.type == "cuda":
        yield effect(setting, setting.robust_model, {"compile": "reduce-overhead"})
    else:
        yield Row("lever", "compile=reduce-overhead / without", None, note="a GPU's: CUDA graphs")
    yield from speed.compiled(setting)
    for execution in EXECUTIONS:
        yield effect(setting, setting.robust_model, {"compile": "default"}, overrides=[f"execution={execution}"])


def update(model: Any, images: torch.Tensor) -> None:
    """Forward and full backward."""
    model.requires_grad_(True)
    scalar(model(images)).backward()
    model.requires_grad_(False)
    model.zero_grad()


def effect(
    setting: Setting,
    name: str,
    levers: dict[str, Any],
    work: Callable[..., None] = bare,
    overrides: Sequence[str] = (),
) -> Row:
    """Of one lever on one network as its yaml and the ``overrides`` describe it."""
    without, with_lever = setting.build(name, *overrides), setting.build(name, *overrides)
    Levers(**levers).apply(with_lever)
    images = setting.batch_of(setting.batch, without.input_size).images
    rounded = levers.get("tf32")

    def plain() -> None:
        with factors_of_10_bits(None if rounded is None else False):  # torch allows them by itself
            work(without, images)

    def lifted() -> None:
        with factors_of_10_bits(rounded):
            work(with_lever, images)

    seconds = interleaved({"without": plain, "with": lifted}, max(1, setting.repeats - 1), setting.device)
    with torch.no_grad():
        with factors_of_10_bits(False):
            one = without(images).cls_logits
        with factors_of_10_bits(bool(rounded)):
            other = with_lever(images).cls_logits
    difference = float((one - other).abs().max() / one.abs().max())
    kind = "forward + input-backward" if work is bare else "forward + full backward"
    what = ", ".join([name, *overrides])
    note = f"{what}, batch {setting.batch}, {kind}; largest difference of a logit / largest logit: {difference:.0e}"
    ((lever, value),) = levers.items()
    lever = f"{lever}={value}" if isinstance(value, str) else lever
    return Row("lever", f"{lever} / without", seconds["with"] / seconds["without"], note=note, seconds=seconds)


def bfloat16(setting: Setting) -> Row:
    """Autocast of an update, which is what ``trainer.precision=bf16-mixed`` does."""
    model = setting.build(setting.model)
    images = setting.batch_of(setting.batch, model.input_size).images

    def mixed() -> None:
        model.requires_grad_(True)
        with torch.autocast(setting.device.type, torch.bfloat16):
            value = scalar(model(images))
        value.backward()
        model.requires_grad_(False)
        model.zero_grad()

    works = {"without": lambda: update(model, images), "with": mixed}
    seconds = interleaved(works, max(1, setting.repeats - 1), setting.device)
    with torch.no_grad():
        one = model(images).cls_logits
        with torch.autocast(setting.device.type, torch.bfloat16):
            other = model(images).cls_logits.float()
    difference = float((one - other).abs().max() / one.abs().max())
    note = f"{setting.model}, forward + full backward; largest difference of a logit / largest logit: {difference:.0e}"
    return Row("lever", "bf16 autocast / without", seconds["with"] / seconds["without"], note=note, seconds=seconds)


def fused(setting: Setting) -> Row:
    model = setting.build(setting.robust_model).requires_grad_(True)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-9)
    works: dict[str, Any] = {}
    for name, switch in (("without", False), ("with", True)):
        works[name] = torch.optim.SGD(model.parameters(), 1e-9, momentum=0.9, weight_decay=5e-4, fused=switch).step
    seconds = interleaved(works, setting.repeats + 2, setting.device)
    note = f"SGD on {setting.robust_model}, one update of all parameters"
    return Row("lever", "fused optimiser / without", seconds["with"] / seconds["without"], note=note, seconds=seconds)


def attack_in_bfloat16(setting: Setting, name: str) -> Row:
    model = setting.build(name)
    batch = setting.batch_of(setting.batch, model.input_size)
    generators = image_generators(0, [target.image_id for target in batch.targets])
    attack = PGD(a_cls, BALL, setting.steps, "2/255")
    works = {
        key: lambda attack=attack: attack(DetectorVictim(model), batch.images, batch.targets, generators)
        for key, attack in (("without", attack), ("with", BFloat16(attack)))
    }
    seconds = interleaved(works, max(1, setting.repeats - 1), setting.device)
    note = f"{name}, batch {setting.batch}, {setting.steps} steps of PGD; its strength: see the docs"
    return Row("lever", "bf16 attack / without", seconds["with"] / seconds["without"], note=note, seconds=seconds)


def kept_memory(setting: Setting) -> Row:
    """Each side in processes of its own: what an allocator keeps, it keeps for good."""
    title, described = "keep_memory / without", json.dumps(asdict(setting) | {"device": str(setting.device)})
    if setting.device.type != "cpu":
        return Row("lever", title, None, note="a CPU's")
    found: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for _ in range(2):
        for key, values in found.items():
            command = [sys.executable, "-m", "benchmarks.levers", described, key]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
            taken, peak = map(float, done.stdout.split()[-2:])
            values.append((taken, peak))
    seconds = {key: min(value for value, _ in values) for key, values in found.items()}
    memory = {key: max(value for _, value in values) for key, values in found.items()}
    note = f"{setting.model}, batch {setting.aa_batch}, forward + input-backward; peak memory "
    note += f"{memory['with']:.1f} instead of {memory['without']:.1f} GiB"
    return Row("lever", title, seconds["with"] / seconds["without"], note=note, seconds=seconds)


def one_side(setting: Setting, keep: bool) -> None:
    fast_processor(keep)
    model = setting.build(setting.model)
    images = setting.batch_of(setting.aa_batch, model.input_size).images
    seconds = interleaved({"work": lambda: bare(model, images)}, setting.repeats, setting.device)
    print(seconds["work"], resident(peak=True))


if __name__ == "__main__":
    read = json.loads(sys.argv[1])
    one_side(Setting(**read | {"device": torch.device(read["device"])}), sys.argv[2] == "with")
