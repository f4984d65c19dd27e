"""A training step of RobustDet*: the share of everything that is not the network, and its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.memory import resident
from benchmarks.rows import Row
from benchmarks.setting import Setting, doubling
from benchmarks.steps import BALL
from benchmarks.timing import interleaved
from robustdet.attacks import MTD
from robustdet.defences.robustdet import CrossedBranch, LossWeights, RobustDet
from robustdet.defences.schedules import Replay
from robustdet.defences.triplet_loss import AllTriplets
from robustdet.processor import fast_processor
from robustdet.types import Batch, RawPredictions

A_STEP = "a training step of RobustDet*"


def method(crossed_branch: CrossedBranch = "none") -> RobustDet:
    replay = Replay(MTD(BALL, 20, "2/255"), updates_per_source=20, step_sizes=["2/255"])
    return RobustDet(replay, LossWeights(gamma=0.6, beta=0.75, a=3, b=0.16, c=5), AllTriplets, crossed_branch)


class TrainingStep:
    """One call: attack step, forward, full backward and update, on half as many clean images as ``images``."""

    def __init__(self, setting: Setting, images: int) -> None:
        self.model = setting.build(setting.cfr_model).train().requires_grad_(True)
        self.batch = setting.batch_of(images // 2, self.model.input_size)
        self.method = method()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6, momentum=0.9)

    def __call__(self) -> None:
        self.method.step(self.model, self.batch, torch.Generator()).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(setting: Setting) -> Iterator[Row]:
    yield from overhead(setting)


def overhead(setting: Setting) -> list[Row]:
    step, images = TrainingStep(setting, setting.train_batch), setting.train_batch
    model, batch = step.model, setting.batch_of(images, step.model.input_size)
    assignment = model.assign(batch.targets)
    raw = predictions(model, batch)
    positive = assignment.labels > 0
    cross_entropy = model.box_losses(raw, assignment).cross_entropy
    routing = torch.rand(images, 4, device=setting.device).softmax(dim=1).requires_grad_()
    attacked = torch.arange(images, device=setting.device) >= images // 2
    triplets = AllTriplets()
    works: dict[str, Any] = {
        "assignment": lambda: model.assign(batch.targets),
        "mining": lambda: model.criterion.hard_negatives(cross_entropy, positive),
        "triplets": lambda: triplets(routing, attacked).loss.backward(),
        "training step": step,
    }
    seconds = interleaved(works, max(1, setting.repeats - 2), setting.device)
    # an update matches all images, and the replay its half once in 20 updates; the attack's three forwards of that half
    # mine as well as the update's
    matching, mining = (1 + 0.5 / 20) * seconds["assignment"], 2.5 * seconds["mining"]
    share = (matching + mining + seconds["triplets"]) / seconds["training step"]
    note = f"{setting.cfr_model}, {images} images, replay: as often as a step does them"
    title = "target assignment + mining + triplet loss / a training step"
    return [
        Row("training", title, 100 * share, "%", 3.0, note=note, seconds=seconds),
        Row("training", A_STEP, seconds["training step"] / images, "s/image", note=note),
    ]


def predictions(model: Any, batch: Batch) -> RawPredictions:
    """Random ones, of the shapes that the model's would have; background as likely as a trained detector says it is.

    SSD300's 8732 boxes then give some 5,000 scores above 0.01 an image: many, and enough for its 200 detections.
    """
    generator = torch.Generator().manual_seed(0)
    boxes = model.default_boxes
    logits = 1.5 * torch.randn(len(batch), len(boxes), model.num_classes + 1, generator=generator)
    logits[..., 0] += 8.5
    offsets = torch.randn(len(batch), len(boxes), 4, generator=generator)
    return RawPredictions(logits.to(boxes), offsets.to(boxes), boxes)


def memory(setting: Setting) -> Iterator[Row]:
    """Each batch size in a process of its own on a CPU, so that none inherits another's peak; a GPU's is set back."""
    on_cpu = setting.device.type == "cpu"
    last = min(setting.train_batch, 8) if on_cpu else 2 * setting.train_batch
    for size in (size for size in doubling(last) if size > 1):
        yield peak_row(setting, size) if on_cpu else peak_row_of_a_gpu(setting, size)


def peak_row_of_a_gpu(setting: Setting, images: int) -> Row:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setting.device)
    try:
        value, note = peak(setting, images), setting.cfr_model
    except torch.cuda.OutOfMemoryError:
        value, note = None, f"{setting.cfr_model}: more than this GPU has"
    return Row("memory", f"peak memory of a training step, {images} images", value, "GiB", note=note)


def peak_row(setting: Setting, images: int) -> Row:
    described = json.dumps(asdict(setting) | {"device": str(setting.device)})
    command = [sys.executable, "-m", "benchmarks.training", described, str(images)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    title = f"peak memory of a training step, {images} images"
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1][:60] if done.stderr.strip() else f"exit {done.returncode}"
        return Row("memory", title, None, "GiB", note=reason)
    return Row("memory", title, float(done.stdout.split()[-1]), "GiB", note=setting.cfr_model)


def peak(setting: Setting, images: int) -> float:
    """GiB at most in use during one training step: of the GPU, or of the process less what it had before."""
    step = TrainingStep(setting, images)
    if setting.device.type == "cuda":
        step()
        return torch.cuda.max_memory_allocated(setting.device) / 2**30
    before = resident(peak=False) - sum(parameter.nbytes for parameter in step.model.parameters()) / 2**30
    step()
    return resident(peak=True) - before


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    fast_processor()
    print(peak(Setting(**fields | {"device": torch.device(fields["device"])}), int(sys.argv[2])))
