"""`make demo`: train a tiny SSD, watch it collapse under attack, defend it, compare. Every number is measured here."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from robustdet.cli.clean_stage import identify
from robustdet.cli.composition import CONF, check
from robustdet.cli.evaluate import evaluate, show_table
from robustdet.cli.train import train
from robustdet.evaluation.record import Record
from robustdet.progress import duration
from robustdet.runs.run import finished

# Weight updates that fit into eight minutes on two cores; the experiments themselves train longer.
UPDATES = {"shapes_std": 600, "shapes_mtd_warm": 350, "shapes_robustdet": 300}
LOG = Path("outputs/demo/second_core.log")


def compose(root: str, *overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(root, list(overrides))
    check(cfg, root)
    return cfg


def budget(experiment: str) -> tuple[str, str]:
    """The overrides of its updates; it is validated once, at the end."""
    return f"trainer.max_steps={UPDATES[experiment]}", f"trainer.val_check_interval={UPDATES[experiment]}"


def checkpoint_of(experiment: str) -> Path:
    """The finished run of these settings, trained now if there is none."""
    folder = f"outputs/demo/{experiment}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    clean = "warm_start.overrides=[" + ",".join(f'"{override}"' for override in budget("shapes_std")) + "]"
    cfg = compose("train", f"experiment={experiment}", *budget(experiment), f"paths.run={folder}", clean)
    found = finished(cfg.paths.outputs, identify(cfg).run)
    if found is not None:
        print(f"{experiment} is trained already: {found}")
    return found or train(cfg)


def measure_meanwhile(*experiments: str) -> subprocess.Popen[bytes]:
    """Trains and attacks these on the second core, one after the other, in a process whose output goes to ``LOG``."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "robustdet.cli.demo", *experiments], stdout=log, stderr=subprocess.STDOUT
        )


def measure(experiment: str) -> list[Record]:
    overrides = (f"experiment={experiment}", "suite=demo", f"ckpt_path='{checkpoint_of(experiment)}'")
    return evaluate(compose("evaluate", *overrides))


def demo() -> None:
    start = time.monotonic()
    print("[1/3] shapes_std: a standard SSD", flush=True)
    checkpoint_of("shapes_std")
    print(f"\n[2/3] shapes_mtd_warm: the same, trained on attacked images too, on the second core; see {LOG}")
    print("[3/3] shapes_robustdet: RobustDet, at the same time", flush=True)
    others = measure_meanwhile("shapes_std", "shapes_mtd_warm")
    checkpoint_of("shapes_robustdet")
    if others.wait() != 0:
        sys.exit(f"the second core failed: see {LOG}")
    records = [record for experiment in UPDATES for record in measure(experiment)]  # what it attacked is stored
    images = records[0].num_images
    (steps,) = {record.attack_settings["steps"] for record in records if record.attack == "dag"}
    print()
    show_table(records, f"Demo: {images} drawn images, ε = 8/255; DAG capped at {steps} steps")
    print(
        "shapes_std: a standard SSD. shapes_mtd_warm: adversarially trained from it (MTD). shapes_robustdet: RobustDet."
    )
    print("A_cls, A_loc and CWA climb losses, in steps of 2/255; DAG mislabels every proposal.")
    print("outrank raises wrong detections above right ones, ap_surrogate lowers what each image adds to AP.")
    print("Worst case: what is left when each image gets the attack that hurts most; suite=strongest searches further.")
    print(f"Pictures of detections, clean and attacked, are named above. {duration(time.monotonic() - start)} in all.")


def main() -> None:
    torch.set_num_threads(1)  # networks this small lose more by handing work over than a second core gives
    for experiment in sys.argv[1:]:
        measure(experiment)
    if not sys.argv[1:]:
        demo()


if __name__ == "__main__":
    main()
