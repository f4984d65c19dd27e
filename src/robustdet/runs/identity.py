"""What identifies a run: what was learnt, from what data, with what at its side, from which start; never where.

Two runs with one identity end with the same weights, up to the rounding of the machines they ran on. So the identity
is not changed by devices, processes, workers, folders, loggers, or how often somebody looks; nor by a default that is
written out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

LEARNT = ("model", "method", "optimizer", "scheduler", "seed", "larger_batch")
SEEDED = ("data", "model")  # have a seed of their own, which may follow the run's
# Where data are and how they are read: their content counts.
OF_DATA = {
    "_target_", "_convert_", "source", "root", "val_share", "num_workers", "eval_batch_size", "download", "on_problem",
    "check",
}  # fmt: skip
# Lightning's settings of when it looks at the validation split: they count where something stops or steers by that.
OF_LOOKS = {"val_check_interval", "check_val_every_n_epoch", "limit_val_batches", "num_sanity_val_steps"}
# Lightning's settings of where a run works and of what it shows. All others count, those to come too.
OF_PLACE = OF_LOOKS | {
    "_target_", "accelerator", "devices", "num_nodes", "strategy", "default_root_dir",
    "use_distributed_sampler", "benchmark", "deterministic", "inference_mode", "barebones", "profiler",
    "detect_anomaly", "logger", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar",
    "enable_model_summary", "enable_autolog_hparams", "limit_test_batches", "limit_predict_batches",
    "reload_dataloaders_every_n_epochs", "model_registry",
}  # fmt: skip
# What says the same as nothing.
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "precision": ("32-true", "32", 32), "limit_train_batches": (1.0,), "accumulate_grad_batches": (1,),
    "overfit_batches": (0,), "fast_dev_run": (False, 0), "gradient_clip_algorithm": ("norm",), "min_epochs": (0, 1),
    "min_steps": (0,), "max_epochs": (-1,), "max_steps": (-1,), "plugins": ([],),
    "sync_batchnorm": (True,),  # where there are several GPUs; without it, statistics are of a share of the batch
}  # fmt: skip
# Callbacks that look and never change what is learnt.
WATCHERS = {
    "CheckpointAfterValidation", "ModelCheckpoint", "OnExceptionCheckpoint", "Preemption", "RoutingDiagnostics",
    "LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor", "RichProgressBar", "TQDMProgressBar",
    "ModelSummary", "RichModelSummary", "DetectionPanels", "BestCheckpoint",
}  # fmt: skip
BLIND = {"Levers", "MovingAverage"}  # change the weights, but look at nothing


def identity(settings: Mapping[str, Any], content: str, start: str | None) -> str:
    """Hex digest of a run.

    Args:
        settings: its whole config as plain data.
        content: digest of the data that it learns from (`DetectionDataModule.content`).
        start: identity of the run whose result it starts from, or digest of the file; None for random weights.
    """
    decisive = {key: settings.get(key) for key in LEARNT}
    decisive["data"] = {key: value for key, value in settings["data"].items() if key not in OF_DATA}
    decisive["trainer"] = _said(settings["trainer"], OF_PLACE)
    companions = [
        one
        for one in (settings.get("callbacks") or {}).values()
        if one and one["_target_"].rpartition(".")[2] not in WATCHERS
    ]
    folders = [str(folder) for key in ("run", "study", "outputs") if (folder := settings["paths"].get(key))]
    decisive["callbacks"] = sorted(json.dumps(_placeless(one, folders), sort_keys=True) for one in companions)
    if any(one["_target_"].rpartition(".")[2] not in BLIND for one in companions):
        looks = {key: settings["trainer"].get(key) for key in sorted(OF_LOOKS)}
        decisive["looks"] = [looks, settings.get("validation"), settings["data"].get("val_share")]
    decisive |= {"content": content, "start": start}
    return hashlib.sha256(json.dumps(_as_numbers(decisive), sort_keys=True, default=str).encode()).hexdigest()[:16]


def recipe(settings: Mapping[str, Any], content: str, start: str | None) -> str:
    """The identity but for seeds: what runs have in common that are seeds of one experiment.

    ``start`` is the start's recipe, or a file's digest.
    """
    seedless = {key: {**settings[key], "seed": 0} if "seed" in settings[key] else settings[key] for key in SEEDED}
    return identity({**settings, "seed": 0, **seedless}, content, start)


def _said(trainer: Mapping[str, Any], passed_over: set[str]) -> dict[str, Any]:
    """What is set there to something else than the default."""
    return {
        key: value
        for key, value in trainer.items()
        if key not in passed_over and value is not None and value not in DEFAULTS.get(key, ())
    }


def _placeless(value: Any, folders: Sequence[str]) -> Any:
    """Without texts that begin with one of the folders: those say where."""
    if isinstance(value, Mapping):
        return {key: _placeless(one, folders) for key, one in value.items()}
    if isinstance(value, list):
        return [_placeless(one, folders) for one in value]
    return "" if isinstance(value, str) and value.startswith(tuple(folders)) else value


def _as_numbers(value: Any) -> Any:
    """Whole numbers as floats, for 5 and 5.0 are one."""
    if isinstance(value, Mapping):
        return {key: _as_numbers(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_numbers(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
