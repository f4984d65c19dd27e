"""Attack steps against the arithmetic that no version can avoid, and our SSD against torchvision's."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16

from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.timing import interleaved, ratio, turns
from robustdet.attacks import MTD, PGD, DetectorVictim, LInf, image_generators
from robustdet.attacks.objectives import a_cls
from robustdet.defences.schedules import Replay
from robustdet.types import Batch, RawPredictions

BALL = LInf("8/255")
MORE_TURNS = 4  # bounds here are a few percent, which the three turns of other parts would not tell from noise


def measure(setting: Setting) -> Iterator[Row]:
    yield from against_torchvision(setting)
    yield from pgd(setting)
    yield from mtd(setting)
    yield from one_by_one(setting)


def scalar(raw: RawPredictions) -> Tensor:
    """The cheapest value that depends on everything a network says."""
    return raw.cls_logits.sum() + raw.bbox_regression.sum()


def bare(model: Any, images: Tensor, backwards: int = 1) -> None:
    """One forward and ``backwards`` input-backwards, nothing else."""
    images = images.detach().requires_grad_()
    value = scalar(model(images))
    for left in reversed(range(backwards)):
        torch.autograd.grad(value, images, retain_graph=left > 0)


def forward(model: Any, images: Tensor) -> None:
    with torch.no_grad():
        model(images)


def against_torchvision(setting: Setting) -> list[Row]:
    """Normalisation, backbone and heads on the same images in [0, 1], parameters frozen."""
    ours = setting.build("ssd300")
    torch.manual_seed(0)
    reference = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21).to(setting.device)
    reference.eval().requires_grad_(False)
    images = setting.batch_of(setting.reference_batch, 300).images

    def theirs(images: Tensor) -> Tensor:
        pixels = reference.transform.normalize(images)
        said = reference.head(list(reference.backbone(pixels).values()))
        return said["cls_logits"].sum() + said["bbox_regression"].sum()

    def their_gradient() -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(theirs(leaf), leaf)

    def their_forward() -> None:
        with torch.no_grad():
            theirs(images)

    works = {
        "ours, forward": lambda: forward(ours, images),
        "torchvision, forward": their_forward,
        "ours, forward + input-backward": lambda: bare(ours, images),
        "torchvision, forward + input-backward": their_gradient,
    }
    seconds = turns(works, setting.repeats + 3 * MORE_TURNS, setting.device)  # the same operations: noise decides
    note = f"batch {setting.reference_batch}, normalisation, backbone and heads; ± the 95 % interval of the median"
    rows = []
    for kind in ("forward", "forward + input-backward"):
        pair = {name: seconds[f"{name}, {kind}"] for name in ("ours", "torchvision")}
        value, noise = ratio(*pair.values())
        medians = {name: median(values) for name, values in pair.items()}
        title = f"SSD300 {kind} / torchvision's ssd300_vgg16"
        rows.append(Row("detector", title, value, bound=1.0, note=note, noise=noise, seconds=medians))
    return rows


def pgd(setting: Setting) -> list[Row]:
    model = setting.build(setting.model)
    batch = setting.batch_of(setting.batch, model.input_size)
    attack = PGD(a_cls, BALL, setting.steps, "2/255")
    generators = image_generators(0, [target.image_id for target in batch.targets])
    works = {
        "PGD": lambda: attack(DetectorVictim(model), batch.images, batch.targets, generators),
        "forward + input-backward": lambda: bare(model, batch.images),
    }
    seconds = interleaved(works, setting.repeats + MORE_TURNS, setting.device)
    ratio = seconds["PGD"] / setting.steps / seconds["forward + input-backward"]
    note = f"{setting.model}, batch {setting.batch}, mean of {setting.steps} steps with their borrowing and matching"
    return [Row("attack", "one PGD step / forward + input-backward", ratio, bound=1.05, note=note, seconds=seconds)]


def mtd(setting: Setting) -> list[Row]:
    model = setting.build(setting.model)
    batch = setting.batch_of(setting.batch, model.input_size)
    images, targets = batch.images, batch.targets
    generators = image_generators(0, [target.image_id for target in targets])
    passes = "forwards + 2 input-backwards"

    def one_step(forwards: int) -> None:
        bare(model, images, 2)
        for _ in range(forwards - 1):
            forward(model, images)

    works: dict[str, Any] = {
        "first forward": lambda: forward(model, images),
        f"2 {passes}": lambda: one_step(2),
        f"3 {passes}": lambda: one_step(3),
    }
    attacks = {
        "chosen per image": MTD(BALL, setting.steps, "2/255"),
        "chosen per batch": MTD(BALL, setting.steps, "2/255", choice="batch"),
    }
    for name, attack in attacks.items():
        works[name] = lambda attack=attack: attack(DetectorVictim(model), images, targets, generators)
    replay = Replay(MTD(BALL, 20, "2/255"), updates_per_source=10_000, step_sizes=["2/255"])
    works["a replay step"] = lambda: replay.next(model, Batch(images, targets), torch.Generator())
    seconds = interleaved(works, setting.repeats + MORE_TURNS, setting.device)
    floor, first = seconds[f"2 {passes}"], seconds["first forward"]
    where = f"{setting.model}, batch {setting.batch}"
    note = f"{where}, mean of {setting.steps} steps, less the attack's first forward"
    rows = [
        Row(
            "attack",
            f"one MTD step on unchanged weights, {name} / 2 {passes}",
            (seconds[name] - first) / setting.steps / floor,
            bound=1.1,
            note=note,
            seconds={name: seconds[name], "first forward": first, "floor": floor},
        )
        for name in attacks
    ]
    floor, step = seconds[f"3 {passes}"], seconds["a replay step"]
    seconds = {"a replay step": step, "floor": floor}
    return [
        *rows,
        Row("attack", f"one replay step of MTD / 3 {passes}", step / floor, bound=1.1, note=where, seconds=seconds),
    ]


def one_by_one(setting: Setting) -> list[Row]:
    """What `attack.one_by_one` chooses between: by itself, large images go alone on a CPU, and together elsewhere."""
    model = setting.build(setting.model)
    batch = setting.batch_of(setting.batch, model.input_size)
    generators = image_generators(0, [target.image_id for target in batch.targets])
    attacks = {way: MTD(BALL, setting.steps, "2/255", one_by_one=way == "alone") for way in ("alone", "together")}
    works = {
        way: lambda attack=attack: attack(DetectorVictim(model), batch.images, batch.targets, generators)
        for way, attack in attacks.items()
    }
    seconds = interleaved(works, setting.repeats, setting.device)
    note = f"{setting.model}, batch {setting.batch}, {setting.steps} steps on unchanged weights"
    ratio = seconds["alone"] / seconds["together"]
    return [Row("attack", "MTD, image by image / together", ratio, note=note, seconds=seconds)]
