"""`python -m src.train experiment=shapes_std`: trains one experiment, its clean stage first where it needs one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from robustdet.cli.building import (
    BACKBONE,
    TRUNK,
    averages,
    bare_trainer,
    build,
    build_module,
    build_trainer,
    logging_of,
    prepare,
)
from robustdet.cli.clean_stage import clean_checkpoint
from robustdet.cli.data_check import check_data
from robustdet.cli.larger_batch import enlarge
from robustdet.cli.launcher import launcher
from robustdet.cli.resume import Plan, planned
from robustdet.cli.start import (
    FROZEN,
    RANDOM,
    freezes_random_norms,
    origin,
    require_discriminator,
    require_offer,
    require_weights,
)
from robustdet.cli.sweeps import objectives
from robustdet.cli.unread import passed_over, require_read, unscaled
from robustdet.errors import NumericalError
from robustdet.evaluation.environment import describe_environment
from robustdet.interop.checkpoints import load_checkpoint
from robustdet.interop.classes import require_same_classes
from robustdet.runs.first_process import FirstProcess, say
from robustdet.runs.run import Run
from robustdet.training.best import kept_as_best
from robustdet.training.preemption import Preemption
from robustdet.training.resuming import require_resumable


def logged(trainer: pl.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def train(cfg: DictConfig, overrides: Sequence[str] = (), first: FirstProcess | None = None) -> Path:
    """Trains what ``cfg`` describes in ``cfg.paths.run``; returns the finished checkpoint.

    ``overrides`` are the command-line arguments it comes from, for the record. ``first`` is the first process of the
    run that needs this one as its clean stage. Raises InputError for an override that nothing reads.
    """
    require_read(cfg, overrides)
    trainer = bare_trainer(cfg)
    require_discriminator(cfg.model)
    require_offer(cfg)
    for text in filter(None, (passed_over(cfg, overrides), unscaled(cfg, overrides))):
        say(text)
    if first is None:  # a command's own run, not its clean stage
        enlarge(cfg)
        first = FirstProcess(trainer)
        first.says(lambda: check_data(cfg, Path(cfg.paths.run)))
    with ExitStack() as held:
        plan = Plan(**first.says(lambda: asdict(planned(cfg, held))))
        return _train(cfg, plan, overrides, first)


def _train(cfg: DictConfig, plan: Plan, overrides: Sequence[str], first: FirstProcess) -> Path:
    run = plan.run
    cfg.paths.run = plan.folder
    starts_clean = cfg.warm_start.ckpt_path is not None or plan.stage is not None
    superseded = (BACKBONE, TRUNK) if plan.state is not None else (BACKBONE,) if starts_clean else ()
    require_weights(cfg.model, superseded)
    begin(run, cfg, plan)
    start = clean_checkpoint(cfg, plan.stage, first, train) if plan.state is None else None
    prepare(cfg)
    experiment = build(cfg, superseded)
    if start is not None:
        clean = load_checkpoint(start)
        require_same_classes(clean.classes, experiment.data.classes, str(start), experiment.data.name)
        experiment.model.warm_start(clean.state_dict)
    module = build_module(cfg, experiment)
    if plan.state is not None:
        require_resumable(plan.state, module, averages(cfg))
    trainer = build_trainer(cfg, [])
    environment = asdict(describe_environment(trainer.strategy.root_device))  # of the code as it is now
    say(f"{cfg.name}: {experiment.data.name}, {experiment.num_classes} classes; writing to {run.folder}")
    say(f"{cfg.name} starts from {origin(cfg.model, start, plan.state)}")
    trained = getattr(getattr(experiment.model, "backbone", None), "trained", None)
    if superseded == () and cfg.model.get(BACKBONE) is None and trained is not None:
        say(RANDOM)
    if superseded == () and freezes_random_norms(experiment.model, cfg.model):
        say(FROZEN)
    with logging_of(trainer, cfg):
        try:
            trainer.fit(module, experiment.data, ckpt_path=plan.state)
        except NumericalError as error:
            good = run.newest_checkpoint
            before = f"The last state before is in {good}" if good else "No state was saved before"
            raise NumericalError(f"{error}. {before}") from error
        trainer.save_checkpoint(run.final, weights_only=False)
        metrics = module.logged | logged(trainer)
        if module.validated != trainer.global_step:  # the last update is between two looks, or was made before
            trainer.validate(module, experiment.data, verbose=False)
            metrics |= logged(trainer)
        if module.validated != trainer.global_step:  # nobody looked at the end: what there is, is of an earlier state
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val/")}
    kept = kept_as_best(trainer)
    incomplete = why_incomplete(cfg, plan, trainer)
    end(
        run,
        {
            "experiment": cfg.name,
            "checkpoint": str(run.final.relative_to(run.folder)),
            "identity": plan.identity,
            "recipe": plan.recipe,
            "pruned": was_pruned(trainer),
            "incomplete": incomplete,  # nobody starts from what is, and it is no seed among others
            "environment": environment,
            "overrides": list(overrides),
            "updates": trainer.global_step,
            "metrics": metrics,
            "best": {str(one.kept.resolve().relative_to(run.folder.resolve())): one.chosen for one in kept},
        },
    )
    trainer.strategy.barrier()  # other processes read what rank 0 has written
    for name in sorted(metrics):
        say(f"  {name:24s} {metrics[name]:.4f}")
    for one in kept:
        say(f"Kept as best, for {one.chosen}: {one.kept}")
    say(f"Finished {cfg.name} after {trainer.global_step} updates: {run.final}")
    if incomplete:
        say(f"No other run will start from it, for {incomplete}")
    stop_if_told(trainer)
    return run.final


@rank_zero_only
def begin(run: Run, cfg: DictConfig, plan: Plan) -> None:
    mark = {"experiment": cfg.name, "identity": plan.identity, "state_of": plan.foreign}
    run.begin(mark, OmegaConf.to_yaml(cfg, resolve=True))


@rank_zero_only
def end(run: Run, mark: dict[str, Any]) -> None:
    run.end(mark)


def stop_if_told(trainer: pl.Trainer) -> None:
    """A signal that came in the last update leaves nothing to save; what would follow this run is not begun."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Preemption) and (number := callback.told_to_end) is not None:
            say("Told to stop: this run has ended, and nothing goes on after it")
            raise SystemExit(128 + number)


def was_pruned(trainer: pl.Trainer) -> bool:
    return any(getattr(callback, "pruned", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def why_incomplete(cfg: DictConfig, plan: Plan, trainer: pl.Trainer) -> str | None:
    """Why this run is not the experiment that its config describes; None where it is."""
    if plan.foreign is not None:
        return f"it began with the state in {plan.foreign}"
    if cfg.trainer.get("fast_dev_run"):
        return "trainer.fast_dev_run is a trial"
    if was_pruned(trainer):
        return "it was pruned"
    steps, epochs = cfg.trainer.max_steps, cfg.trainer.max_epochs
    if steps not in (None, -1) and trainer.global_step < steps and not 0 <= (epochs or -1) <= trainer.current_epoch:
        return f"it made {trainer.global_step} of {steps} updates"
    if steps in (None, -1) and epochs not in (None, -1) and trainer.current_epoch < epochs:
        return f"it made {trainer.current_epoch} of {epochs} epochs"
    if steps in (None, -1) and epochs in (None, -1):
        return "its config says no end: trainer.max_steps or trainer.max_epochs"
    return None


@launcher("train")
def main(cfg: DictConfig) -> list[float | None] | float | None:
    run = Run(train(cfg, HydraConfig.get().overrides.task).parent.parent)
    return objectives(cfg.objectives, (run.ended or {"metrics": {}})["metrics"])
