"""`make demo`: train a tiny SSD, watch it collapse under attack, defend it, compare. Every number is measured here."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import hydra
from omegaconf import DictConfig

from robustdet.evaluation.record import Record
from robustdet.progress import duration
from src.clean_stage import find_finished, fingerprint
from src.composition import CONF, check
from src.evaluate import evaluate, show_table
from src.train import train

# Weight updates that fit into eight minutes on two cores; the experiments themselves train longer.
UPDATES = {"shapes_std": 1000, "shapes_mtd_warm": 300, "shapes_robustdet": 300}


def compose(root: str, *overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(root, list(overrides))
    check(cfg, root)
    return cfg


def checkpoint_of(experiment: str) -> Path:
    """The finished run of these settings, trained now if there is none."""
    folder = f"outputs/demo/{experiment}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    clean = f'warm_start.overrides=["trainer.max_steps={UPDATES["shapes_std"]}"]'
    cfg = compose(
        "train", f"experiment={experiment}", f"trainer.max_steps={UPDATES[experiment]}", f"paths.run={folder}", clean
    )
    found = find_finished(Path(cfg.paths.outputs), fingerprint(cfg))
    if found is not None:
        print(f"{experiment} is trained already: {found}")
    return found or train(cfg)


def main() -> None:
    start = time.monotonic()
    records: list[Record] = []
    for number, experiment in enumerate(UPDATES, start=1):
        print(f"\n[{number}/{len(UPDATES)}] {experiment}", flush=True)
        checkpoint = checkpoint_of(experiment)
        overrides = (f"experiment={experiment}", "suite=demo", f"ckpt_path='{checkpoint}'", "paths.run=unused")
        records += evaluate(compose("evaluate", *overrides))
    images, steps = records[0].num_images, records[-1].attack_settings["steps"]
    print()
    show_table(records, f"Demo: {images} drawn images, ε = 8/255, steps of 2/255; DAG capped at {steps} steps")
    print(
        "shapes_std: a standard SSD. shapes_mtd_warm: adversarially trained from it (MTD). shapes_robustdet: RobustDet."
    )
    print(f"Pictures of detections, clean and attacked, are named above. {duration(time.monotonic() - start)} in all.")


if __name__ == "__main__":
    main()
