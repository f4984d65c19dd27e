"""What identifies a run: what was learnt, from what data, with what at its side, from which start; never where.

Two runs with one identity end with the same weights, up to the rounding of the machines they ran on. So the identity
is not changed by devices, processes, workers, folders, loggers, or how often somebody looks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

LEARNT = ("model", "method", "optimizer", "scheduler", "seed", "larger_batch")
# Where data are and how they are read: their content counts.
OF_DATA = {"_target_", "_convert_", "source", "root", "val_share", "num_workers", "eval_batch_size", "download"}
# Lightning's settings of where a run works and of what it shows. All others count, those to come too.
OF_PLACE = {
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "plugins", "default_root_dir",
    "use_distributed_sampler", "benchmark", "deterministic", "inference_mode", "barebones", "profiler",
    "detect_anomaly",
    "logger", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "enable_autolog_hparams", "num_sanity_val_steps", "limit_val_batches", "limit_test_batches",
    "limit_predict_batches", "val_check_interval", "check_val_every_n_epoch", "reload_dataloaders_every_n_epochs",
    "model_registry",
}  # fmt: skip
# Callbacks that look and never change what is learnt.
WATCHERS = {
    "CheckpointAfterValidation", "ModelCheckpoint", "Preemption", "RoutingDiagnostics", "LearningRateMonitor",
    "DeviceStatsMonitor", "RichProgressBar", "TQDMProgressBar", "ModelSummary", "RichModelSummary", "Timer",
    "DetectionPanels",
}  # fmt: skip


def identity(settings: Mapping[str, Any], content: str, start: str | None) -> str:
    """Hex digest of a run.

    Args:
        settings: its whole config as plain data.
        content: digest of the data that it learns from (`DetectionDataModule.content`).
        start: identity of the run whose result it starts from, or digest of the file; None for random weights.
    """
    decisive = {key: settings.get(key) for key in LEARNT}
    decisive["data"] = {key: value for key, value in settings["data"].items() if key not in OF_DATA}
    trainer = settings["trainer"]
    decisive["trainer"] = {key: trainer[key] for key in trainer if key not in OF_PLACE and trainer[key] is not None}
    callbacks = (settings.get("callbacks") or {}).values()
    companions = [one for one in callbacks if one and one["_target_"].rpartition(".")[2] not in WATCHERS]
    decisive |= {"callbacks": companions, "content": content, "start": start}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


def recipe(settings: Mapping[str, Any], content: str, start: str | None) -> str:
    """The identity but for seeds: what runs have in common that are seeds of one experiment.

    ``start`` is the start's recipe, or a file's digest.
    """
    return identity({**settings, "seed": 0, "data": {**settings["data"], "seed": 0}}, content, start)
