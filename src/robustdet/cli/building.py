"""From a composed config to live objects; the only place besides the launchers that knows Hydra."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from robustdet.analysis.table import TableSpec, read_spec
from robustdet.cli.composition import CONF, composed
from robustdet.cli.ladder import without_ladder
from robustdet.cli.quiet import quieten
from robustdet.data.datamodule import DetectionDataModule
from robustdet.evaluation.record import Record
from robustdet.processor import fast_processor
from robustdet.training.module import DetectionModule
from robustdet.training.validation import Validation


@dataclass(frozen=True)
class Experiment:
    """What one config describes, built."""

    data: DetectionDataModule
    model: Any  # an nn.Module that is a robustdet.types.Detector

    @property
    def num_classes(self) -> int:
        return len(self.data.classes)


def prepare(cfg: DictConfig) -> None:
    """Process-wide settings: seeds, silence of libraries about what is harmless, and a fast processor."""
    quieten()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    fast_processor(cfg.keep_memory)


def build(cfg: DictConfig) -> Experiment:
    """The data module, and a model with as many classes as the data has; initial weights depend on ``seed`` alone."""
    data = instantiate(cfg.data)
    torch.manual_seed(cfg.seed)
    return Experiment(data, instantiate(cfg.model, num_classes=len(data.classes)))


def build_module(cfg: DictConfig, experiment: Experiment) -> DetectionModule:
    validation = Validation(
        instantiate(cfg.validation.attack), cfg.validation.max_images, experiment.num_classes, cfg.seed
    )
    return DetectionModule(
        experiment.model,
        instantiate(cfg.method),
        instantiate(cfg.optimizer),
        instantiate(cfg.scheduler),
        cfg.seed,
        validation,
    )


def build_trainer(cfg: DictConfig, callbacks: list[pl.Callback], job: str = "train") -> pl.Trainer:
    """``job`` is what a logger with groups and types of jobs (W&B) is told this is."""
    logger = None
    if cfg.logger:
        described = {"group": sweep_name(), "job_type": job}
        unset = {key: value for key, value in described.items() if cfg.logger.get(key, "") is None}
        logger = cast(Logger, instantiate(cfg.logger, **unset))
    configured = [instantiate(callback) for callback in cfg.callbacks.values()]
    if logger is None:  # it would refuse to start
        configured = [callback for callback in configured if not isinstance(callback, LearningRateMonitor)]
    return instantiate(
        cfg.trainer, logger=logger or False, callbacks=[*configured, *callbacks], enable_progress_bar=False
    )


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


@rank_zero_only
def save_config(cfg: DictConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` as plain dicts, lists and values, all interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


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
    wanted = {(record.run.suite, record.run.protocol) for record in records}
    ours = {file.stem for folder in ("suite", "protocol") for file in (CONF / folder).glob("*.yaml")}
    named = [(suite, protocol) for suite, protocol in sorted(wanted) if {suite, protocol} <= ours]
    return {
        (suite, protocol): plain(
            without_ladder(composed("evaluate", [f"suite={suite}", f"protocol={protocol}"]).suite).attacks
        )
        for suite, protocol in named
    }
