"""From a composed config to live objects; the only place besides the launchers that knows Hydra."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from robustdet.data.datamodule import DetectionDataModule
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
    """Process-wide settings: seeds, and no denormal floats (they slow untrained networks on CPUs many times over)."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_flush_denormal(True)


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


def build_trainer(cfg: DictConfig, callbacks: list[pl.Callback]) -> pl.Trainer:
    loggers = instantiate(cfg.logger) if cfg.logger else False
    configured = [instantiate(callback) for callback in cfg.callbacks.values()]
    return instantiate(cfg.trainer, logger=loggers, callbacks=[*configured, *callbacks], enable_progress_bar=False)


def save_config(cfg: DictConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` as plain dicts, lists and values, all interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
