"""The clean detector that adversarial training starts from: found finished, trained first, or read from a file.

A finished run is recognised by a fingerprint of everything that decides its weights (data, model, method, optimiser,
schedule, number of updates, seed), so that a short trial run is never mistaken for the real clean stage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.building import plain, read_json
from src.composition import CONF

RUN_FILE = "run.json"
DECISIVE = ("model", "method", "optimizer", "scheduler", "seed")
IRRELEVANT = {"num_workers", "eval_batch_size", "download", "pin_memory"}  # to the weights
TRAINER_KEYS = ("max_steps", "max_epochs", "limit_train_batches", "precision", "gradient_clip_val")
# Overrides of this command that concern the clean stage as well; `warm_start.overrides` adds others.
PASSED_ON = ("data=", "data.root=", "data.source", "data.download=", "data.num_workers=", "model.weights=", "protocol=",
             "trainer=", "trainer.", "paths.", "seed=", "logger=", "callbacks=")  # fmt: skip


def fingerprint(cfg: DictConfig) -> str:
    """Hex digest of the part of a training config that decides the weights it ends with."""
    settings = plain(cfg)
    decisive: dict[str, Any] = {key: settings[key] for key in DECISIVE}
    decisive["warm_start"] = {key: settings["warm_start"][key] for key in ("experiment", "ckpt_path")}
    decisive["data"] = {key: value for key, value in settings["data"].items() if key not in IRRELEVANT}
    decisive["data"]["root"] = str(Path(settings["data"]["root"]).resolve())
    decisive["trainer"] = {key: settings["trainer"].get(key) for key in TRAINER_KEYS}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


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
    folder = Path(cfg.paths.outputs) / name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    overrides = [f"experiment={name}", *passed_on, *cfg.warm_start.overrides, f"paths.run={folder}"]
    state = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("train", overrides)
    finally:
        GlobalHydra.instance().clear()
        if state is not None:
            GlobalHydra.instance().hydra = state


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
    found = find_finished(Path(cfg.paths.outputs), fingerprint(stage))
    if found is not None:
        print(f"Starting from the finished clean stage {stage.name}: {found}")
        return found
    print(f"No finished clean stage {stage.name} for these settings under {cfg.paths.outputs}: training it first")
    return train(stage)
