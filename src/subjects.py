"""Trained detectors from their checkpoints, each as its own run describes it: for analyses and predictions.

A run keeps its ``config.yaml`` beside the folder ``checkpoints/``; a checkpoint without one (somebody else's, say) is
what the command's experiment describes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from robustdet.analysis.figures.study import Subject
from robustdet.data.datamodule import DetectionDataModule
from robustdet.detection.weights import require_fit
from robustdet.interop.checkpoints import load_checkpoint

NO_EXPERIMENT = "unnamed"  # of conf/common.yaml


@dataclass(frozen=True)
class Trained:
    """A checkpoint with the config that its detector is built from."""

    path: Path
    cfg: DictConfig
    own: bool  # whether the config is its run's own

    @property
    def run(self) -> Path | None:
        """The folder of the run that wrote it."""
        return self.path.parent.parent if self.own else None

    @property
    def name(self) -> str:
        return str(self.cfg.name) if self.own else self.path.stem


def checkpoints(cfg: DictConfig) -> dict[str, Trained]:
    """``ckpt_path`` (one file, a list, or files by label) as trained detectors by label.

    Labels that are not given are the names of the runs, with their folders where two have the same name. Raises
    ValueError or FileNotFoundError that names what is missing.
    """
    given = OmegaConf.to_container(cfg.ckpt_path) if OmegaConf.is_config(cfg.ckpt_path) else cfg.ckpt_path
    if not given:
        raise ValueError("ckpt_path is needed: outputs/…/final.ckpt, or several as [A.ckpt,B.ckpt] or {SSD:A.ckpt,…}")
    if isinstance(given, Mapping):
        return {str(label): trained(Path(path), cfg) for label, path in given.items()}
    found = [trained(Path(path), cfg) for path in (given if isinstance(given, list) else [given])]
    counts = Counter(one.name for one in found)
    labels = [one.name if counts[one.name] == 1 else f"{one.name} {(one.run or one.path).name}" for one in found]
    for label, count in Counter(labels).items():
        if count > 1:
            raise ValueError(f"{count} checkpoints are called {label!r}: name them, as in ckpt_path={{A:…,B:…}}")
    return dict(zip(labels, found, strict=True))


def trained(path: Path, cfg: DictConfig) -> Trained:
    if not path.is_file():
        raise FileNotFoundError(f"ckpt_path={path} does not exist; expected a checkpoint file")
    path = path.resolve()
    config = path.parent.parent / "config.yaml"
    if path.parent.name == "checkpoints" and config.is_file():
        return Trained(path, cast(DictConfig, OmegaConf.load(config)), own=True)
    if cfg.name == NO_EXPERIMENT:
        raise ValueError(f"there is no {config} that says what {path} is: give experiment=… as well")
    return Trained(path, cfg, own=False)


def data_of(cfg: DictConfig, found: Mapping[str, Trained]) -> DetectionDataModule:
    """The data of this command's experiment; without one, that which the first detector was trained on."""
    source = next(iter(found.values())).cfg if cfg.name == NO_EXPERIMENT else cfg
    return instantiate(source.data)


def subject(label: str, one: Trained, data: DetectionDataModule) -> Subject:
    """The detector with its weights, in evaluation mode. Raises ValueError when it is not made for these data."""
    size = one.cfg.model.input_size
    if size != data.image_size:
        raise ValueError(f"{label} takes images of {size} pixels, but those of {data.name} come in {data.image_size}")
    model: Any = instantiate(one.cfg.model, num_classes=len(data.classes))
    checkpoint = load_checkpoint(one.path)
    require_fit(checkpoint.state_dict, model.state_dict(), f"{one.path} ({checkpoint.description})")
    model.load_state_dict(checkpoint.state_dict)
    return Subject(label, model.eval())
