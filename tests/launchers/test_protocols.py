"""`protocol=authors` against `protocol=paper`: every experiment differs in the settings listed here, and in no other.

A row that is the same in both has no line: the decoder's scale, the learning rate, the attacks A_cls and A_loc, and the
colour that fills an expanded image, which the published code takes in B, G, R order from a triple that it subtracts in
R, G, B order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from robustdet.cli.composition import check
from robustdet.data.annotation import Annotation
from robustdet.data.augmentation import Expand, IoUCrop, PhotometricDistortion
from tests.launchers.test_composition import EXPERIMENTS, compose

ABSENT = "absent"
FROM_ELSEWHERE = ("method.schedule.", "schedule.attack.")  # the same nodes again, by interpolation
LOSS = "robustdet.defences.triplet_loss."
METRIC = "robustdet.evaluation.metric."

DATA = ("voc_mobile", "voc", "coco", "shapes")

Where = Callable[[str, str], bool]


def everywhere(data: str, row: str) -> bool:
    return True


def ours(data: str, row: str) -> bool:
    """Not torchvision's detectors, which have normalisation and post-processing of their own."""
    return not row.startswith("torchvision")


def photographs(data: str, row: str) -> bool:
    """At the paper's size: the compact detector is nobody's but ours."""
    return data in ("voc", "coco")


def routed(data: str, row: str) -> bool:
    return row.startswith(("robustdet", "cfr"))


def both(*conditions: Where) -> Where:
    return lambda data, row: all(condition(data, row) for condition in conditions)


def on(name: str) -> Where:
    return lambda data, row: data.partition("_")[0] == name


def of(*prefixes: str) -> Where:
    return lambda data, row: row.startswith(prefixes)


# topic, setting, paper, authors, where
SETTINGS: list[tuple[str, str, Any, Any, Where]] = [
    ("channel means", "model.normalisation.mean", [123, 117, 104], [104, 117, 123], photographs),
    ("COCO's head of 201", "model.unused_classes", 0, 120, on("coco")),
    ("AID sees the detector's pixels", "model.aid.input_filter", None, ABSENT, both(photographs, routed)),
    ("", "model.aid.input_filter._target_", ABSENT, "robustdet.detection.normalisation.Normalisation", both(photographs, routed)),  # noqa: E501
    ("", "model.aid.input_filter.mean", ABSENT, [104, 117, 123], both(photographs, routed)),
    ("", "model.aid.input_filter.std", ABSENT, [1, 1, 1], both(photographs, routed)),
    ("triplets", "method.triplets._target_", LOSS + "AllTriplets", LOSS + "RandomNegativeTriplets", routed),
    ("", "method.triplets.distance.path", LOSS + "jensen_shannon", LOSS + "squared_l2", routed),
    ("MTD's choice", "attack.choice", "image", "batch", of("mtd", "robustdet", "cfr", "torchvision_mtd")),
    ("steps while training", "schedule.step_sizes",
     ["0.25/255", "0.5/255", "1/255", "2/255", "4/255", "8/255"], ["8/255"], everywhere),
    ("log-variance", "model.cfr.log_variance_max", float("inf"), 10, of("cfr")),
    ("NaN", "model.nan_to_zero", 0, 23, routed),
    ("augmentation", "data.augmentation.transforms", "ssd", "ssd_authors", photographs),
    ("post-processing", "model.post_processing.candidates_per_class", 400, 200, ours),
    ("", "model.post_processing.max_detections", 200, None, ours),
    ("VOC's metric", "metrics.voc._target_", METRIC + "VocMetric", METRIC + "AuthorsVocMetric", everywhere),
    ("", "metrics.voc.input_size", ABSENT, "model.input_size", everywhere),
    ("COCO's images without annotations", "data.source.skip_unannotated", False, True, on("coco")),
    ("DAG", "suite.attacks.dag._target_", "robustdet.attacks.DAG", "robustdet.attacks.DAGAuthors", everywhere),
    ("", "suite.attacks.dag.threat._target_", "robustdet.attacks.PixelRange", ABSENT, everywhere),
    *(
        (topic, f"{place}.{key}", paper, authors, where)
        for topic, place, where in (
            ("CWA", "suite.attacks.cwa.objective", everywhere),
            ("CWAT", "attack.objective", of("cwat")),
        )
        for key, paper, authors in (
            ("_target_", "robustdet.attacks.ClassWise", "hydra.utils.get_method"),
            ("clip", 5.0, ABSENT),
            ("path", ABSENT, "robustdet.attacks.cwa.class_wise_over_boxes"),
        )
    ),
    ("gradient clipping", "trainer.gradient_clip_val", 10.0, None, photographs),
    ("warm start", "model.perturbation", 0.01, 0, routed),
    ("VOC's years", "data.source.train_years", [2007, 2012], [2007], on("voc")),
]  # fmt: skip


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield path, node
        return
    for key, value in node.items():
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def settings(experiment: str, protocol: str, *roots: str) -> dict[str, Any]:
    """What trains or evaluates an experiment, by path."""
    found: dict[str, Any] = {}
    for root in roots:
        cfg = compose(root, f"experiment={experiment}", f"protocol={protocol}")
        check(cfg, root)
        assert cfg.name == experiment
        assert cfg.data.image_size == cfg.model.input_size
        plain = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(plain, dict)
        found |= {"metrics": plain.pop("protocol")["metrics"], **plain}
    return {path: value for path, value in leaves(found) if not path.startswith(FROM_ELSEWHERE)}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_protocols_differ_in_what_is_listed_and_in_nothing_else(experiment: str) -> None:
    """A suite is no row's affair: it is looked at in those that train on clean images."""
    roots = ("train", "evaluate") if experiment.endswith("_std") else ("train",)
    paper, authors = (settings(experiment, protocol, *roots) for protocol in ("paper", "authors"))
    differing = {
        path: (paper.get(path, ABSENT), authors.get(path, ABSENT))
        for path in paper.keys() | authors.keys()
        if paper.get(path, ABSENT) != authors.get(path, ABSENT)
    }
    data = next(data for data in DATA if experiment.startswith(f"{data}_"))
    row = experiment.removeprefix(f"{data}_")
    expected = {path: (one, other) for _, path, one, other, where in SETTINGS if where(data, row)}
    if "evaluate" not in roots:
        expected = {path: values for path, values in expected.items() if not path.startswith("suite.")}
    if photographs(data, row):  # whole pipelines: compared below
        differing["data.augmentation.transforms"] = ("ssd", "ssd_authors")
    expected["metrics.voc.input_size"] = (ABSENT, authors["model.input_size"])
    assert differing == expected


@pytest.fixture(params=["voc", "coco"])
def augmentations(request: pytest.FixtureRequest) -> dict[str, Any]:
    def augmentation(protocol: str) -> Any:
        cfg = compose("train", f"experiment={request.param}_std", f"protocol={protocol}")
        return instantiate(cfg.data.augmentation, _convert_="all")

    return {protocol: augmentation(protocol) for protocol in ("paper", "authors")}


def test_the_authors_crops_have_no_bound_and_one_mode_less(augmentations: dict[str, Any]) -> None:
    def modes(protocol: str) -> tuple[float | None, ...]:
        (crop,) = (t for t in augmentations[protocol].pipeline.transforms if isinstance(t, IoUCrop))
        return crop.min_ious

    assert modes("paper") == (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
    assert modes("authors") == (None, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_an_expanded_image_is_filled_alike_but_not_with_the_authors_own_mean(augmentations: dict[str, Any]) -> None:
    fills = {}
    for protocol, augmentation in augmentations.items():
        (expand,) = (t for t in augmentation.pipeline.transforms if isinstance(t, Expand))
        means = compose("train", "experiment=voc_std", f"protocol={protocol}").model.normalisation.mean
        fills[protocol] = expand.fill, [colour - mean for colour, mean in zip(expand.fill, means, strict=True)]
    assert fills == {"paper": ((123, 117, 104), [0, 0, 0]), "authors": ((123, 117, 104), [19, 0, -19])}


def test_only_the_authors_pixels_leave_their_range(augmentations: dict[str, Any]) -> None:
    assert not any(isinstance(t, PhotometricDistortion) for t in augmentations["paper"].pipeline.transforms)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    boxes, no = np.array([[5, 8, 30, 30]], dtype=np.float32), np.zeros(1, dtype=bool)
    annotation = Annotation(Path("none.png"), "x", (40, 60), boxes, np.ones(1, dtype=np.int64), no, no)
    for protocol, kind in (("paper", np.uint8), ("authors", np.float32)):
        seen = [augmentations[protocol](image, annotation, np.random.default_rng(seed))[0] for seed in range(40)]
        assert {pixels.dtype for pixels in seen} == {np.dtype(kind)}
        if protocol == "authors":
            assert min(pixels.min() for pixels in seen) < -20
            assert 300 < max(pixels.max() for pixels in seen) <= (255 + 32) * 1.5 * 1.01


def test_the_experiment_of_cwat_trains_on_the_column_of_cwa() -> None:
    for protocol in ("paper", "authors"):
        cfg: DictConfig = compose("train", "experiment=voc_cwat", f"protocol={protocol}")
        assert cfg.attack.objective == cfg.protocol.cwa.objective
        assert (cfg.attack.steps, cfg.schedule.updates_per_source) == (10, 10)
