"""From a composed config to live objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar, WeightAveraging
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from robustdet.analysis.table import TableSpec, read_spec
from robustdet.cli.composition import CONF, composed
from robustdet.cli.instantiating import instantiate
from robustdet.cli.ladder import without_ladder
from robustdet.cli.quiet import quieten, silence_of_lightning
from robustdet.cli.rescaling import named, rescaled
from robustdet.cli.stopping import stop_when_told
from robustdet.cli.sweeps import processes
from robustdet.data.datamodule import DetectionDataModule
from robustdet.errors import InputError
from robustdet.evaluation.metric import Metric
from robustdet.evaluation.record import Record
from robustdet.interop.foreign import ForeignDetector
from robustdet.interop.torch_dataset import TorchData
from robustdet.processor import fast_processor
from robustdet.training.checkpoint_io import WholeCheckpoints
from robustdet.training.module import DetectionModule
from robustdet.training.progress import TrainingProgress
from robustdet.training.validation import Validation

BACKBONE, TRUNK = "weights", "aid.trunk.weights"  # of a model's settings: what it starts from


@dataclass(frozen=True)
class Experiment:
    """What one config describes, built; or a detector and data that somebody else has made."""

    data: DetectionDataModule | TorchData
    model: Any  # an nn.Module that is a robustdet.types.Detector

    @property
    def num_classes(self) -> int:
        return len(self.data.classes)


def prepare(cfg: DictConfig) -> None:
    """Process-wide settings: seeds, silence of libraries about what is harmless, a fast processor, an end by SIGTERM.

    Raises ValueError for a seed that is none.
    """
    require_seed(cfg.seed)
    quieten()
    stop_when_told()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    fast_processor(cfg.keep_memory)


def require_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(
            f"seed={'null' if seed is None else seed}: expected a whole number from 0 to 2**32 - 1. Weights, order, "
            "augmentation and attacks are drawn from it, and a run is found again by it; for another run, take another"
        )


def bare_trainer(cfg: DictConfig) -> pl.Trainer:
    """Knows the processes of this run and who starts them, nothing else.

    Raises ValueError for what Lightning would refuse of ``cfg.trainer``, before anything else is done: a clean stage
    may take days. Also for a time between validations in a run of several processes.
    """
    require_seed(cfg.seed)
    quieten()
    interval, several = cfg.trainer.get("val_check_interval"), processes(cfg.trainer)
    if several is not None and not isinstance(interval, int | float | None):
        raise InputError(
            f"trainer.val_check_interval={interval} is a time, and with {several} each process has a clock of its own: "
            "they would wait for each other for ever. Give a number of batches"
        )
    if str(cfg.trainer.get("precision")) == "16-true":
        raise InputError(
            "trainer.precision=16-true has no scaling of the loss, and losses here overflow half precision at once: "
            "train with 16-mixed, bf16-mixed or bf16-true"
        )
    if str(cfg.trainer.get("precision")) == "bf16-true" and averages(cfg):
        raise InputError(
            "trainer.precision=bf16-true rounds away what an update moves an average by, and callbacks.averaging "
            "averages the weights: train with bf16-mixed"
        )
    with silence_of_lightning():
        bare = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "profiler": None}
        return instantiate(cfg.trainer, **bare, check_val_every_n_epoch=epochs_between_looks(cfg.trainer))


def averages(cfg: DictConfig) -> bool:
    """Whether a callback keeps an average of the weights beside them, which is then what is saved as the detector."""
    targets = [get_class(one["_target_"]) for one in (cfg.callbacks or {}).values()]
    return any(issubclass(target, WeightAveraging) for target in targets)


def build(cfg: DictConfig, superseded: Sequence[str] = ()) -> Experiment:
    """The data module, and a model with as many classes as the data has; initial weights depend on ``seed`` alone.

    Trained weights that are ``superseded``, for a checkpoint brings others, are not looked for.
    """
    data = instantiate(cfg.data)
    torch.manual_seed(cfg.seed)
    model = instantiate(without_start(cfg.model, superseded), num_classes=len(data.classes))
    if isinstance(model, ForeignDetector):
        model.learn(data.classes)
    return Experiment(data, model)


def without_start(model: DictConfig, superseded: Sequence[str] = (BACKBONE, TRUNK)) -> DictConfig:
    """A model's settings as it is built to take a checkpoint, which brings these weights."""
    bare = model.copy()
    for key in superseded:
        if OmegaConf.select(bare, key) is not None:
            OmegaConf.update(bare, key, None)
    return bare


def build_metric(cfg: DictConfig, data: DetectionDataModule | TorchData) -> Metric:
    """``cfg.metric`` where the command chooses one, else the data set's own under ``cfg.protocol``."""
    chosen = cfg.get("metric") or cfg.protocol.metrics[data.metric]
    return instantiate(chosen, num_classes=len(data.classes))


def build_module(cfg: DictConfig, experiment: Experiment) -> DetectionModule:
    validation = Validation(
        instantiate(cfg.validation.attack),
        cfg.validation.max_images,
        experiment.num_classes,
        cfg.seed,
        cfg.validation.clean_share,
    )
    module = DetectionModule(
        experiment.model,
        instantiate(cfg.method),
        instantiate(cfg.optimizer),
        instantiate(cfg.scheduler),
        cfg.seed,
        validation,
        experiment.data.classes,
    )
    module.hparams.update(module_settings(cfg, experiment.data.classes))
    return module


def module_settings(cfg: DictConfig, classes: Sequence[str]) -> dict[str, Any]:
    """What `DetectionModule.load_from_checkpoint` builds the module from again, as plain data; and the classes."""
    settings = plain(cfg)
    model = {**plain(without_start(cfg.model)), "num_classes": len(classes)}
    validation = {
        "_target_": f"{Validation.__module__}.{Validation.__qualname__}",
        **settings["validation"],
        "num_classes": len(classes),
        "seed": settings["seed"],
    }
    taken = {key: settings[key] for key in ("method", "optimizer", "scheduler", "seed")}
    return {"model": model, **taken, "validation": validation, "classes": list(classes)}


def build_trainer(cfg: DictConfig, callbacks: list[pl.Callback], job: str = "train") -> pl.Trainer:
    """``job`` is what a logger with groups and types of jobs (W&B) is told this is.

    Progress is shown by `TrainingProgress`, unless a bar of Lightning's is among the callbacks, or
    ``trainer.enable_progress_bar`` asks for its usual one (true) or for none (false).
    """
    loggers = build_loggers(cfg, job)
    configured = [instantiate(callback) for callback in cfg.callbacks.values()]
    if not loggers:  # it would refuse to start
        configured = [callback for callback in configured if not isinstance(callback, LearningRateMonitor)]
    theirs = any(isinstance(callback, ProgressBar) for callback in configured)
    asked = cfg.trainer.get("enable_progress_bar")
    if not theirs and asked is None:
        configured.append(TrainingProgress())
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        logger=loggers or False,
        callbacks=[*configured, *callbacks],
        enable_progress_bar=theirs if asked is None else asked,
        check_val_every_n_epoch=epochs_between_looks(cfg.trainer),
        sync_batchnorm=synchronises(cfg.trainer),
    )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that `trainer.plugins` asks for
        trainer.strategy.checkpoint_io = WholeCheckpoints()
    return trainer


def synchronises(trainer: DictConfig) -> bool:
    """``sync_batchnorm``, which is meant wherever there are several processes on GPUs and nobody says otherwise.

    Else a discriminator's and a decoder's statistics would be of each process's share of the batch, and the run another
    experiment than on one GPU. PyTorch cannot do so on a CPU.
    """
    said, on_gpus = trainer.get("sync_batchnorm"), trainer.get("accelerator") != "cpu" and torch.cuda.is_available()
    return bool(said) if said is not None else on_gpus and processes(trainer) is not None


def build_loggers(cfg: DictConfig, job: str) -> list[Logger]:
    """One for every name in ``cfg.logger``: ``logger=[csv,tensorboard]`` has two."""
    described = {"group": sweep_name(), "job_type": job}
    loggers = []
    for settings in (cfg.logger or {}).values():
        unset = {key: value for key, value in described.items() if settings.get(key, "") is None}
        loggers.append(cast(Logger, instantiate(settings, **unset)))
    return loggers


def epochs_between_looks(trainer: DictConfig) -> int | None:
    """``check_val_every_n_epoch``, of which null means every epoch where an interval is a share of one, or not given.

    Batches and times are counted across epochs with null.
    """
    epochs, interval = trainer.get("check_val_every_n_epoch"), trainer.get("val_check_interval")
    return 1 if epochs is None and (interval is None or isinstance(interval, float)) else epochs


def sweep_name() -> str | None:
    """Of the sweep (`-m`) that this job belongs to; None when it stands alone."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is None or hydra.mode != RunMode.MULTIRUN:
        return None
    folder = Path(hydra.sweep.dir)
    return f"{folder.parent.name}/{folder.name}"


@contextmanager
def logging_of(trainer: pl.Trainer, cfg: DictConfig) -> Iterator[None]:
    """Tells the loggers the settings; on leaving, by an error too, ends a run that one keeps open (W&B).

    So the next job of this process gets its own.
    """
    failed = True
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(plain(cfg))
        yield
        failed = False
    finally:
        for logger in trainer.loggers:
            if hasattr(logger, "finish"):
                logger.finish(failed)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` as plain dicts, lists and values, all interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def table_specs() -> list[TableSpec]:
    """The paper's tables, as `conf/table` describes them."""
    return [
        read_spec(yaml.safe_load(file.read_text(encoding="utf-8")), str(file))
        for file in sorted((CONF / "table").glob("*.yaml"))
    ]


def suites_of(records: Iterable[Record]) -> dict[tuple[str, str], dict[str, Any]]:
    """What `conf/suite` says of the attacks of these records' suites, by suite and protocol, as plain data by name.

    A suite that is not in `conf/suite` is left out.
    """
    wanted = sorted({(record.run.suite, record.run.protocol) for record in records})
    ours = {file.stem for folder in ("suite", "protocol") for file in (CONF / folder).glob("*.yaml")}
    found = {}
    for name, protocol in wanted:
        suite, epsilon = named(name)
        if {suite, protocol} <= ours:
            said = [f"suite={suite}", f"protocol={protocol}", f"suite.epsilon={epsilon or 'null'}"]
            found[name, protocol] = plain(without_ladder(rescaled(composed("evaluate", said).suite)).attacks)
    return found
