"""Detectors that no run of ours has made, named by `model=…` in place of a checkpoint."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from robustdet.cli.composition import arguments_of
from robustdet.cli.instantiating import instantiate
from robustdet.errors import InputError
from robustdet.interop.foreign import ForeignDetector
from robustdet.runs.first_process import say
from robustdet.types import Offer


def is_foreign(cfg: DictConfig) -> bool:
    """Whether the config's model comes with its own weights, so that a command needs no checkpoint.

    Raises InputError for such a one without a name.
    """
    target = OmegaConf.select(cfg, "model._target_")
    found = get_object(target) if target is not None else None
    foreign = inspect.isclass(found) and issubclass(found, ForeignDetector)
    if foreign and "name" not in set(cfg.model):
        raise InputError(f"the model {target} has no name: its yaml says how records call it, as in `name: mine`")
    return foreign


def clean_model(model: DictConfig) -> DictConfig:
    """The settings of the plain detector that a robust one starts from, as far as it has them; else the same."""
    plain = getattr(get_object(model._target_), "clean_stage", None)
    if plain is None:
        return model
    target = f"{plain.__module__}.{plain.__qualname__}"
    shared = {key: model._get_node(key) for key in arguments_of(target) or () if key in model}
    return OmegaConf.create({"_target_": target, "_convert_": "all", **shared})


def offered(cfg: DictConfig) -> Offer:
    """What the config's model offers an attack, as its class says, without building it."""
    kind = get_object(cfg.model._target_)
    if inspect.isclass(kind) and issubclass(kind, ForeignDetector):
        kind = kind.kind(cfg.model.name)
    methods: dict[str, Offer] = {"box_losses": "scores", "losses": "losses"}
    return next((offer for method, offer in methods.items() if hasattr(kind, method)), "detections")


def built(cfg: DictConfig, num_classes: int | None = None) -> ForeignDetector:
    """In evaluation mode; random weights depend on ``seed`` alone, and are spoken of."""
    torch.manual_seed(cfg.seed)
    model: ForeignDetector = instantiate(cfg.model, num_classes=num_classes)
    if _is_random(cfg):
        say(f"WARNING: {model.name} has random weights (model.weights=null): what it detects means nothing")
    return model.eval()


def folder_name(cfg: DictConfig) -> Path:
    """Of its records: `<name>/<weights>_<folder of the data>`."""
    weights = [] if "weights" not in cfg.model else ["random" if cfg.model.weights is None else str(cfg.model.weights)]
    return Path(cfg.model.name) / "_".join([*(Path(one).stem for one in weights), Path(cfg.data.root).name])


def origin(model: nn.Module, cfg: DictConfig) -> str:
    """Where what it knows comes from, for a record."""
    if (file := getattr(model, "file", None)) is not None:
        return str(file)
    return f"random weights of seed {cfg.seed}" if _is_random(cfg) else f"as {cfg.model._target_} has it, no file named"


def _is_random(cfg: DictConfig) -> bool:
    return "weights" in cfg.model and cfg.model.weights is None


def digest_of_weights(model: nn.Module) -> str | None:
    """SHA-256 over the names, shapes and values of all parameters and buffers; None where there are none."""
    digest = hashlib.sha256()
    state: dict[str, Any] = model.state_dict()
    if not state:
        return None
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
