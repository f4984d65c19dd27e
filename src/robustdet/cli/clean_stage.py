"""The clean detector that adversarial training starts from: found finished, trained first, or read from a file.

Of several jobs that start at once, one trains it and the others wait. A finished run is recognised by a fingerprint of
everything that decides its weights (data, model, method, optimiser, schedule, number of updates, seed, overrides of its
own clean stage), so that a short trial run is never mistaken for the real clean stage.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from robustdet.cli.building import plain, read_json
from robustdet.cli.composition import composed

RUN_FILE = "run.json"
DECISIVE = ("model", "method", "optimizer", "scheduler", "seed")
IRRELEVANT = {"num_workers", "eval_batch_size", "download", "pin_memory"}  # to the weights
TRAINER_KEYS = ("max_steps", "max_epochs", "limit_train_batches", "precision", "gradient_clip_val",
                "accumulate_grad_batches")  # fmt: skip
# Overrides of this command that concern the clean stage as well; `warm_start.overrides` adds others.
PASSED_ON = ("data=", "data.root=", "data.source", "data.download=", "data.num_workers=", "model.weights=", "protocol=",
             "trainer=", "trainer.", "paths.outputs=", "paths.data=", "seed=", "logger=", "callbacks=")  # fmt: skip


def fingerprint(cfg: DictConfig) -> str:
    """Hex digest of the part of a training config that decides the weights it ends with."""
    settings = plain(cfg)
    decisive: dict[str, Any] = {key: settings[key] for key in DECISIVE}
    start = settings["warm_start"]
    decisive["warm_start"] = {key: start[key] for key in ("experiment", "ckpt_path")}
    has_stage = start["experiment"] is not None and start["ckpt_path"] is None
    if has_stage and start["overrides"]:  # else they decide nothing
        decisive["warm_start"]["overrides"] = start["overrides"]
    decisive["data"] = {key: value for key, value in settings["data"].items() if key not in IRRELEVANT}
    decisive["data"]["root"] = str(Path(settings["data"]["root"]).resolve())
    decisive["trainer"] = {key: settings["trainer"].get(key) for key in TRAINER_KEYS}
    processes = [settings["trainer"].get(key, 1) for key in ("devices", "num_nodes")]
    if processes != [1, 1]:  # each has a batch of its own
        decisive["trainer"]["processes"] = processes
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


@rank_zero_only
def write_run(folder: Path, described: dict[str, Any]) -> None:
    """``run.json``, the mark of a finished run; whole or not at all, for others may be looking for it."""
    partial = folder / f"{RUN_FILE}.partial"
    partial.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / RUN_FILE)


def run_that_ended_with(checkpoint: Path) -> dict[str, Any] | None:
    """The ``run.json`` of the finished run whose result this file is; None for an earlier state, or anyone else's."""
    checkpoint = checkpoint.resolve()
    file = checkpoint.parent.parent / RUN_FILE
    run = read_json(file) if file.is_file() else {}
    return run if file.parent / run.get("checkpoint", "") == checkpoint else None


def find_finished(outputs: Path, wanted: str) -> Path | None:
    """The newest finished run's checkpoint under ``outputs`` with this fingerprint."""
    runs = sorted(outputs.glob(f"**/{RUN_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for run in runs:
        described = read_json(run)
        checkpoint = run.parent / described["checkpoint"]
        if described["fingerprint"] == wanted and checkpoint.is_file():
            return checkpoint
    return None


def stage_config(cfg: DictConfig) -> DictConfig:
    """The config of ``cfg.warm_start.experiment``, with those of this command's overrides that concern it too."""
    given = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    passed_on = [override for override in given if override.lstrip("+").startswith(PASSED_ON)]
    name = cfg.warm_start.experiment
    overrides = [f"experiment={name}", *passed_on, *cfg.warm_start.overrides, "paths.run=unused"]
    stage = composed("train", overrides)
    # The same folder in every process of a distributed run, and after an interruption, so that it is gone on with
    stage.paths.run = str(Path(cfg.paths.outputs) / name / f"stage_{fingerprint(stage)}")
    return stage


@contextmanager
def one_at_a_time(outputs: Path, what: str) -> Iterator[None]:
    """Held by one process of all that share ``outputs``; the others wait and say so. Freed if its holder dies.

    Processes of one distributed run belong together: the first holds it for all of them.
    """
    if getattr(rank_zero_only, "rank", 0) > 0:
        yield
        return
    outputs.mkdir(parents=True, exist_ok=True)
    lock = FileLock(outputs / f".{what}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another run that works on the clean stage ({lock.lock_file})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def clean_checkpoint(cfg: DictConfig, train: Callable[[DictConfig], Path]) -> Path | None:
    """The file to start from, or None when this experiment starts from scratch; says which it is."""
    if cfg.warm_start.ckpt_path is not None:
        path = Path(cfg.warm_start.ckpt_path)
        if not path.is_file():
            raise FileNotFoundError(f"warm_start.ckpt_path={path} does not exist; expected a checkpoint file")
        print(f"Starting from the weights in {path}")
        return path
    if cfg.warm_start.experiment is None:
        return None
    stage = stage_config(cfg)
    outputs, wanted = Path(cfg.paths.outputs), fingerprint(stage)
    with one_at_a_time(outputs, wanted):
        found = find_finished(outputs, wanted)
        if found is not None:
            print(f"Starting from the finished clean stage {stage.name}: {found}")
            return found
        print(f"No finished clean stage {stage.name} for these settings under {cfg.paths.outputs}: training it first")
        return train(stage)
