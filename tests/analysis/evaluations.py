"""Folders as evaluations and analyses leave them, for tests of the report: every number is made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from robustdet.evaluation.objects import Confusion, ObjectCounts
from robustdet.evaluation.patches import Band, PatchEffect
from robustdet.evaluation.record import Stage, write_record
from robustdet.evaluation.tide import Errors
from tests.evaluation.records import RECORD, RUN

FLAG = "outside_ball: changed by more than ε = 8/255 (in 3 of 4952 images, such as 000001)"
FLAGS = """# Flags

A **flag** is no proof. <script>is no HTML</script>

## One attack

| flag | raised when | what to do |
|---|---|---|
| `outside_ball` | it left its *ball* | project with `threat` |
| `not_finite` | there is a NaN | find the layer |
"""
_RUN = replace(RUN, experiment="voc_cfr", method="RobustDet", training_seed=0, training_recipe="one")
_RECORD = replace(
    RECORD,
    attack="clean",
    attack_settings=None,
    map=0.7,
    area_map=0.71,
    per_class={"cat": 0.8, "dog": 0.6, "unicorn": None},
    loss_rose={"total": 0.997},
)
PGD = {
    "_target_": "robustdet.attacks.PGD",
    "objective": {"_target_": "hydra.utils.get_method", "path": "robustdet.attacks.objectives.a_cls"},
    "threat": {"_target_": "robustdet.attacks.LInf", "epsilon": "8/255"},
    "steps": 20,
}
COUNTS = ObjectCounts(0.3, 0.5, 12032, 9000, 4500, 4321, 1234, 3445, 1200, 3000)

ERRORS = Errors(
    iou=0.5,
    background_iou=0.1,
    ap=0.321,
    right=4500,
    counts={
        "classification": 111,
        "localization": 222,
        "both": 333,
        "duplicate": 44,
        "background": 5555,
        "missed": 6789,
    },
    costs={
        "classification": 0.012,
        "localization": 0.034,
        "both": 0.0,
        "duplicate": 0.001,
        "background": 0.056,
        "missed": 0.345,
    },
    false_positives_cost=0.25,
    false_negatives_cost=0.5,
)
CONFUSION = Confusion(0.3, 0.5, named=4500, misnamed=1532, missed=6000, alarms=2999)
PATCH = PatchEffect(
    0.05, 0.5, 77, 11955, 0.75, 0.25, [Band(0.0, 0.0, 33, 0.7, 0.125), Band(0.0, None, 11922, None, None)]
)


def write(run: Path, attack: str = "clean", ap: float = 0.7, **changes: Any) -> Path:
    """One record of the training run in this folder; ``changes`` are of `Record` or `RunInfo`. Returns its file."""
    about_run = {name: changes.pop(name) for name in list(changes) if name in vars(_RUN)}
    info = replace(_RUN, **about_run)
    attacked = (
        {}
        if attack == "clean"
        else {
            "attack_settings": PGD,
            "objects": COUNTS,
            "errors": ERRORS,
            "confusion": CONFUSION,
            "patch": PATCH,
        }
    )
    record = replace(_RECORD, run=info, attack=attack, map=ap, **attacked | changes)
    suite = info.suite if info.protocol == "paper" else f"{info.suite}_{info.protocol}"
    return write_record(record, run / "evaluation" / suite / "records")


def write_config(run: Path, **loss: float) -> None:
    run.mkdir(parents=True, exist_ok=True)
    weights = {"_target_": "robustdet.defences.robustdet.LossWeights", "beta": 0.75, **loss}
    (run / "config.yaml").write_text(yaml.safe_dump({"loss": weights}), encoding="utf-8")


def write_trained(run: Path, gamma: float, clean: float, robust: float, pruned: bool = False) -> None:
    """What a finished training run of shapes_cfr says of itself."""
    write_config(run, gamma=gamma)
    metrics = {"val/AP50_clean": clean, "val/AP50_attacked": robust}
    content = {"experiment": "shapes_cfr", "updates": 600, "metrics": metrics} | ({"pruned": True} if pruned else {})
    (run / "run.json").write_text(json.dumps(content), encoding="utf-8")


def write_metrics(run: Path, experiment: str) -> None:
    """A finished training run that kept its metrics."""
    metrics = "step,train/loss,val/AP50_attacked,val/AP50_clean\n19,6.5,,\n39,4.5,0.25,0.75\n59,2.5,0.5,0.875\n"
    (run / "csv").mkdir(parents=True)
    (run / "csv" / "metrics.csv").write_text(metrics, encoding="utf-8")
    content = {"experiment": experiment, "updates": 60, "metrics": {}}
    (run / "run.json").write_text(json.dumps(content), encoding="utf-8")


def write_picture(file: Path, size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 50).convert("RGB").save(file)


def write_everything(outputs: Path) -> None:
    """One of each kind of thing that a page has to show."""
    cfr = outputs / "voc_cfr" / "run"
    for attack, ap in {"clean": 0.748, "pgd_cls": 0.461, "pgd_loc": 0.488, "cwa": 0.344}.items():
        write(cfr, attack, ap)
    write(cfr, "dag", 0.292, flags=[FLAG])
    write(
        cfr,
        "worst_case",
        0.25,
        attack_settings={"attacks": ["pgd_cls", "cwa"]},
        chosen={"pgd_cls": 3000, "cwa": 1952},
        stages=[Stage("pgd_cls", 4952, 3000, 99040.0), Stage("cwa", 4000, 1952, 80000.0)],
        forward_passes=36.2,
    )
    write(cfr, "pgd_cls", 0.321, suite="reliable")
    write(cfr, "pgd_cls", 0.333, protocol="authors")
    write(outputs / "voc_std" / "run", "clean", 0.774, experiment="voc_std", checkpoint_sha256="b" * 64, num_images=500)
    write(cfr, "pgd_cls", 0.987, suite="quick", tabled=False, num_images=64)
    for index, (gamma, clean, robust) in enumerate([(0.1, 0.76, 0.33), (0.6, 0.75, 0.43), (0.9, 0.7, 0.4)]):
        run = outputs / "sweeps" / "voc_robustdet" / str(index)
        write_config(run, gamma=gamma)
        identity = {"experiment": "voc_robustdet", "checkpoint_sha256": str(index) * 64, "training_recipe": str(index)}
        write(run, "clean", clean, suite="reliable", **identity)
        write(run, "pgd_cls", robust, suite="reliable", **identity)
    write_metrics(cfr, "voc_cfr")
    write_picture(cfr / "analysis" / "pgd_steps.png")
    (cfr / "analysis" / "pgd_steps.csv").write_text("steps,map\n1,0.5\n", encoding="utf-8")
    write_picture(cfr / "evaluation" / "paper" / "detections.png", (900, 700))
