"""Everything after the network: post-processing, evaluation in batches, average precision; and the data before it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from benchmarks.rows import Row
from benchmarks.setting import CONF, Setting
from benchmarks.steps import BALL, bare, forward
from benchmarks.timing import clock, interleaved
from benchmarks.training import A_STEP, predictions
from robustdet.attacks import PGD
from robustdet.attacks.objectives import a_cls
from robustdet.data.annotation import Annotation
from robustdet.data.dataset import DetectionDataset
from robustdet.evaluation.average_precision import voc_average_precision
from robustdet.evaluation.coco_ap import coco_average_precision
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.types import Batch, Detections, Target

CPU = torch.device("cpu")
PER_WORKER = "images per second and worker"


def evaluate_all(suite: SuiteEvaluator, model: Any, batches: list[Batch]) -> None:
    for batch in batches:
        suite.evaluate_batch(model, batch)


def measure(setting: Setting) -> Iterator[Row]:
    yield from post_processing(setting)
    yield from batched_evaluation(setting)
    yield from average_precision(setting)
    yield from data(setting)


def post_processing(setting: Setting) -> list[Row]:
    model = setting.build(setting.model)
    batch = setting.batch_of(setting.post_batch, model.input_size)
    raw = predictions(model, batch)
    found = sum(len(detections.scores) for detections in model.detect(raw)) / len(batch)
    works = {"post-processing": lambda: model.detect(raw), "forward": lambda: forward(model, batch.images)}
    seconds = interleaved(works, max(1, setting.repeats - 1), setting.device)
    share = 100 * seconds["post-processing"] / seconds["forward"]
    note = f"{setting.model}, {len(batch)} images, {found:.0f} detections each"
    return [Row("evaluation", "post-processing / forward", share, "%", 15.0, note=note, seconds=seconds)]


def batched_evaluation(setting: Setting) -> list[Row]:
    """A whole suite, clean and one attack step, over the same images in batches of 16 and one by one."""
    model = setting.build(setting.model)
    whole = setting.batch_of(setting.eval_images, model.input_size)
    bare(model, whole.images[:16])  # warms up
    seconds, losses = {}, {}
    for size in (16, 1):
        with tempfile.TemporaryDirectory() as folder:
            attacks = {"clean": None, "pgd": PGD(a_cls, BALL, 1, "2/255")}
            suite = SuiteEvaluator(attacks, {}, folder, {})
            parts = [Batch(whole.images[i : i + size], whole.targets[i : i + size]) for i in range(0, len(whole), size)]
            seconds[f"batch {size}"] = clock(partial(evaluate_all, suite, model, parts), setting.device)
            outcomes = suite.attacks["pgd"].read(suite.seen.contents)
            losses[size] = np.array([outcomes[target.image_id].measures["classification"] for target in whole.targets])
    difference = float(np.abs(losses[16] / losses[1] - 1).max())
    note = f"{setting.model}, {len(whole)} images, clean and one PGD step"
    rate = {name: len(whole) / value for name, value in seconds.items()}
    return [
        Row("evaluation", "images/s at batch 16", rate["batch 16"], "images/s", note=note, seconds=seconds),
        Row("evaluation", "images/s at batch 1", rate["batch 1"], "images/s", note=note),
        Row("evaluation", "records: largest relative difference of an attacked loss", difference, "", 1e-3, note=note),
    ]


def average_precision(setting: Setting) -> list[Row]:
    rows = []
    for name, classes, images in (("VOC", 20, setting.ap_images), ("COCO", 80, round(setting.ap_images * 5000 / 4952))):
        found, targets = result(images, classes, detections=200 if name == "VOC" else 100)
        kinds: dict[str, Any] = {"ours (VOC's rules)": voc_average_precision, "pycocotools": coco_average_precision}
        seconds = {kind: clock(partial(rule, found, targets, classes), CPU) for kind, rule in kinds.items()}
        note = f"{images} images, {len(found[min(found)].scores)} detections each, {classes} classes"
        for kind, value in seconds.items():
            rows.append(Row("metric", f"AP of a {name}-sized result, {kind}", value, "s", note=note))
    return rows


def result(images: int, classes: int, detections: int) -> tuple[dict[str, Detections], dict[str, Target]]:
    generator = torch.Generator().manual_seed(0)

    def boxes(count: int) -> torch.Tensor:
        low = torch.rand(count, 2, generator=generator) * 200
        return torch.cat([low, low + 20 + 80 * torch.rand(count, 2, generator=generator)], dim=1)

    found, targets = {}, {}
    for number in range(images):
        name, objects = f"{number:06d}", 3
        scores = torch.rand(detections, generator=generator).sort(descending=True).values
        labels = torch.randint(1, classes + 1, (detections,), generator=generator)
        found[name] = Detections(boxes(detections), scores, labels)
        kind = torch.randint(1, classes + 1, (objects,), generator=generator)
        no = torch.zeros(objects, dtype=torch.bool)
        targets[name] = Target(boxes(objects), kind, no, no, name, (300, 300))
    return found, targets


def data(setting: Setting, images: int = 48) -> list[Row]:
    """Photograph-sized JPEG files through SSD's augmentation, in this process: what one worker does."""
    with initialize_config_dir(str(CONF), version_base=None):
        augmentation = instantiate(compose("augmentation/ssd").augmentation, _convert_="all")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        annotations = []
        for number in range(images):
            coarse = Image.fromarray(rng.integers(0, 256, (25, 34, 3), dtype=np.uint8))
            path = Path(folder) / f"{number}.jpg"
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
            low = rng.uniform(0, 150, (3, 2))
            boxes = np.hstack([low, low + rng.uniform(40, 200, (3, 2))]).astype(np.float32)
            none = np.zeros(3, dtype=bool)
            labels = np.array([1, 2, 3], dtype=np.int64)
            annotations.append(Annotation(path, str(number), (375, 500), boxes, labels, none, none))
        dataset = DetectionDataset(annotations, 300, augmentation)
        seconds = interleaved({"pass": lambda: [dataset[i] for i in range(images)]}, setting.repeats, CPU)["pass"]
    note = "500 x 375 JPEG, SSD's augmentation, to 300 x 300"
    return [Row("data", PER_WORKER, images / seconds, "images/s", note=note)]


def feeding(rows: Sequence[Row]) -> list[Row]:
    """Workers that keep the fastest measured training step busy, half of whose images are read; none without both."""
    seconds = [row.value for row in rows if row.title == A_STEP and row.value]
    rates = [row.value for row in rows if row.title == PER_WORKER and row.value]
    if not seconds or not rates:
        return []
    note = "data.num_workers; half of a step's images are read, the others are their attacked copies"
    return [Row("data", f"workers that feed {A_STEP}", 0.5 / min(seconds) / rates[0], "", note=note)]
