"""What is disturbed: small commands, and what each of them must leave behind, to the bit."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SMALL = [
    "trainer=cpu",
    "data.source.train=12",
    "data.source.val=3",
    "data.source.test=6",
    "data.batch_size=4",
    "data.eval_batch_size=2",
    "trainer.log_every_n_steps=1",
    "trainer.max_steps=7",
    "trainer.val_check_interval=2",
    "validation.attack.steps=1",
]
STEPS_OF_ATTACKS = ["suite.attacks.pgd_cls.steps=2", "suite.attacks.pgd_loc.steps=2"]
OF_THE_MOMENT = {"date", "seconds", "images_per_second", "environment"}


@dataclass(frozen=True)
class Job:
    """A command that goes on where it was interrupted when it is given again.

    ``overrides`` makes its arguments for a folder to work in; ``result`` is what is there in the end, comparable.
    """

    command: str
    overrides: Callable[[Path], Sequence[str]]
    result: Callable[[Path], Any]


def training(experiment: str, data: Path, *more: str) -> Job:
    def overrides(folder: Path) -> list[str]:
        paths = [f"paths.data={data}", f"paths.outputs={folder / 'outputs'}", f"paths.run={folder / 'run'}"]
        return [f"experiment={experiment}", *SMALL, *more, *paths, f"hydra.run.dir={folder / 'hydra'}"]

    return Job("train", overrides, lambda folder: trained(folder / "run"))


def trained(run: Path) -> dict[str, Any]:
    """Weights, curves and final numbers; that nothing unfinished lies about."""
    state = torch.load(run / "checkpoints" / "final.ckpt", weights_only=True)["state_dict"]
    with (run / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        curve = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    mark = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return {
        "weights": digest(state),
        "curve": curve,
        "numbers": {key: mark[key] for key in ("metrics", "updates", "identity", "incomplete")},
        "left": sorted(file.name for file in run.rglob("unfinished.json")),
    }


def digest(state: dict[str, torch.Tensor]) -> str:
    text = hashlib.sha256()
    for name in sorted(state):
        text.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return text.hexdigest()


def evaluating(checkpoint: Path) -> Job:
    def overrides(folder: Path) -> list[str]:
        given = [
            f"ckpt_path='{checkpoint}'",
            "suite=quick",
            "suite.max_images=6",
            "data.eval_batch_size=2",
            "pictures=1",
        ]
        return [*given, *STEPS_OF_ATTACKS, "trainer=cpu", f"paths.run={folder}", f"hydra.run.dir={folder / 'hydra'}"]

    return Job("evaluate", overrides, lambda folder: records(folder / "evaluation" / "quick" / "records"))


def records(folder: Path) -> dict[str, Any]:
    found = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*"))}
    return {name: {key: record[key] for key in record.keys() - OF_THE_MOMENT} for name, record in found.items()}


def drawing() -> Job:
    """Of data that nobody has drawn before: the command's first step, then one update."""

    def overrides(folder: Path) -> list[str]:
        return [
            *training("shapes_std", folder / "data", "data.source.train=60", "trainer.max_steps=1").overrides(folder),
        ]

    def result(folder: Path) -> dict[str, Any]:
        # a kill leaves a hidden part behind, which the next day's drawing takes away
        (drawn,) = (folder / "data" / "shapes").glob("[!.]*") if (folder / "data").is_dir() else [folder]
        files = sorted(file for file in drawn.rglob("*") if file.is_file())
        return {str(file.relative_to(drawn)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    return Job("train", overrides, result)
