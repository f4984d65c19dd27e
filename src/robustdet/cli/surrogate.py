"""Another run's detector, for attacks that transfer from it (`conf/attack/transfer.yaml`)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from robustdet.cli import subjects
from robustdet.cli.building import BACKBONE, TRUNK, Experiment, build
from robustdet.cli.instantiating import instantiate
from robustdet.detection.weights import require_fit
from robustdet.errors import InputError, MissingFileError
from robustdet.evaluation.environment import file_sha256
from robustdet.interop.checkpoints import load_checkpoint
from robustdet.interop.classes import require_same_classes
from robustdet.runs.run import CONFIG, Run


def trained_detector(ckpt_path: str | Path) -> nn.Module:
    """The detector of one of our runs, in evaluation mode: as the run's ``config.yaml`` builds it, with these weights.

    Raises:
        FileNotFoundError: no such checkpoint, or no config.yaml in the folder that its ``checkpoints/`` is in.
    """
    detector = build(config_of(ckpt_path), superseded=(BACKBONE, TRUNK)).model
    state = load_checkpoint(ckpt_path).state_dict
    require_fit(state, detector.state_dict(), f"the surrogate {ckpt_path}")
    detector.load_state_dict(state)
    return detector.eval()


def require_same_task(ckpt_path: str | Path, victim: Experiment) -> None:
    """Raises ValueError where the surrogate knows other classes than the victim, or takes images of another size."""
    cfg = config_of(ckpt_path)
    classes = load_checkpoint(ckpt_path).classes or instantiate(cfg.data).classes
    require_same_classes(classes, victim.data.classes, f"the surrogate {ckpt_path}", victim.data.name)
    size = cfg.model.input_size
    if size != victim.model.input_size:
        text = f"images of {size} pixels, the victim of {victim.model.input_size}"
        raise InputError(f"the surrogate {ckpt_path} takes {text}")


def config_of(ckpt_path: str | Path) -> DictConfig:
    path = Path(ckpt_path)
    if not path.is_file():
        raise MissingFileError(f"the surrogate {ckpt_path} does not exist")
    run = Run.around(path)
    if run is None:
        raise MissingFileError(
            f"the surrogate {ckpt_path} needs {path.resolve().parent.parent / CONFIG}, which does not exist"
        )
    return subjects.config_of(run)


def surrogates(fields: Any) -> Iterator[dict[str, Any]]:
    """The fields of every surrogate that is named by its checkpoint, wherever it stands in those of attacks."""
    if not isinstance(fields, dict):
        return
    for key, value in fields.items():
        if key == "surrogate" and value.get("ckpt_path") is not None:
            yield value
        else:
            yield from surrogates(value)


def with_contents(attacks: dict[str, Any]) -> dict[str, Any]:
    """The fields of attacks, with the SHA-256 of each surrogate's and patch's file: its path outlives its content."""
    attacks = copy.deepcopy(attacks)
    for surrogate in surrogates(attacks):
        surrogate["sha256"] = file_sha256(surrogate["ckpt_path"])
    for patched in _patched(attacks):
        patched["patch_sha256"] = file_sha256(patched["patch_file"])
    return attacks


def _patched(fields: Any) -> Iterator[dict[str, Any]]:
    """The fields of every attack that pastes the patch of a file, wherever it stands."""
    if isinstance(fields, dict):
        if fields.get("patch_file") and Path(fields["patch_file"]).is_file():
            yield fields
        for value in fields.values():
            yield from _patched(value)
