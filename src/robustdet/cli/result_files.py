"""`results=[coco,voc]` of an evaluation: the detections behind its records, as files for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustdet.cli.building import Experiment
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.interop.result_files import (
    Measured,
    write_coco_annotations,
    write_coco_results,
    write_voc_results,
)


def write_results(kinds: Sequence[str], suite: SuiteEvaluator, experiment: Experiment, folder: Path) -> Path:
    """Writes those of every attack that has a record to ``folder``/results; returns that folder.

    ``coco``: `<attack>.json`, and `annotations.json` with the images; ``voc``: `<attack>/det_test_<class>.txt`.
    """
    results = folder / "results"
    annotations = experiment.data.test_dataloader().dataset.annotations  # type: ignore[attr-defined]
    measured = Measured(
        targets=suite.seen.targets,
        files={one.image_id: one.image_path for one in annotations},
        side=experiment.model.input_size,
        classes=experiment.data.classes,
        category_ids=getattr(experiment.data.source, "category_ids", None),
    )
    if "coco" in kinds:
        write_coco_annotations(results / "annotations.json", measured)
    for name, outcomes in suite.recorded.items():
        found = {image_id: outcome.detections for image_id, outcome in outcomes.items()}
        if "coco" in kinds:
            write_coco_results(results / f"{name}.json", found, measured)
        if "voc" in kinds:
            write_voc_results(results / name, found, measured)
    return results
