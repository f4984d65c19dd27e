"""Another run's detector, for attacks that transfer from it (`conf/attack/transfer.yaml`)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from robustdet.evaluation.environment import file_sha256
from robustdet.interop.checkpoints import load_checkpoint
from src.building import build


def trained_detector(ckpt_path: str | Path) -> nn.Module:
    """The detector of one of our runs, in evaluation mode: as the run's ``config.yaml`` builds it, with these weights.

    Raises:
        FileNotFoundError: no such checkpoint, or no config.yaml in the folder that its ``checkpoints/`` is in.
    """
    path = Path(ckpt_path).resolve()
    config = path.parent.parent / "config.yaml"
    for file in (path, config):
        if not file.is_file():
            raise FileNotFoundError(f"the surrogate {ckpt_path} needs {file}, which does not exist")
    detector = build(OmegaConf.load(config)).model  # type: ignore[arg-type]
    detector.load_state_dict(load_checkpoint(path).state_dict)
    return detector.eval()


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
    """The fields of attacks, with the SHA-256 of each surrogate's file: its path outlives its content."""
    attacks = copy.deepcopy(attacks)
    for surrogate in surrogates(attacks):
        surrogate["sha256"] = file_sha256(surrogate["ckpt_path"])
    return attacks
