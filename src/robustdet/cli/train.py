"""`python -m src.train experiment=shapes_std`: trains one experiment, its clean stage first where it needs one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from robustdet.cli.building import build, build_module, build_trainer, logging_of, prepare, read_json, save_config
from robustdet.cli.clean_stage import RUN_FILE, clean_checkpoint, fingerprint, write_run
from robustdet.cli.launcher import launcher
from robustdet.cli.resume import continued, mark_finished, mark_unfinished, say
from robustdet.cli.sweeps import objectives
from robustdet.interop.checkpoints import load_checkpoint
from robustdet.training.progress import TrainingProgress


def logged(trainer: pl.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def train(cfg: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """Trains what ``cfg`` describes in ``cfg.paths.run``; returns the finished checkpoint.

    ``overrides`` are the command-line arguments it comes from, for the record.
    """
    state = continued(cfg)
    mark_unfinished(cfg)
    start = clean_checkpoint(cfg, train) if state is None else None
    prepare(cfg)
    folder = Path(cfg.paths.run)
    save_config(cfg, folder)
    experiment = build(cfg)
    if start is not None:
        experiment.model.warm_start(load_checkpoint(start).state_dict)
    module = build_module(cfg, experiment)
    trainer = build_trainer(cfg, [TrainingProgress()])
    say(f"{cfg.name}: {experiment.data.name}, {experiment.num_classes} classes; writing to {folder}")
    checkpoint = folder / "checkpoints" / "final.ckpt"
    with logging_of(trainer, cfg):
        trainer.fit(module, experiment.data, ckpt_path=state)
        trainer.save_checkpoint(checkpoint, weights_only=False)
        metrics = logged(trainer)
        # unless the last update has just been looked at: not when it is between two looks, nor when it was made before
        if trainer.global_step % cfg.trainer.val_check_interval or not metrics:
            trainer.validate(module, experiment.data, verbose=False)
            metrics |= logged(trainer)
    pruned = any(getattr(callback, "pruned", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    described = {
        "experiment": cfg.name,
        "checkpoint": str(checkpoint.relative_to(folder)),
        "fingerprint": None if pruned else fingerprint(cfg),  # what nobody should start from has none
        "overrides": list(overrides),
        "pruned": pruned,
        "updates": trainer.global_step,
        "metrics": metrics,
    }
    write_run(folder, described)
    mark_finished(folder)
    trainer.strategy.barrier()  # other processes read what rank 0 has written
    for name in sorted(metrics):
        say(f"  {name:24s} {metrics[name]:.4f}")
    say(f"Finished {cfg.name} after {trainer.global_step} updates: {checkpoint}")
    return checkpoint


@launcher("train")
def main(cfg: DictConfig) -> list[float | None] | float | None:
    folder = train(cfg, HydraConfig.get().overrides.task).parent.parent
    return objectives(cfg.objectives, read_json(folder / RUN_FILE)["metrics"])
