"""Another run's detector, for attacks that transfer from it (`conf/attack/transfer.yaml`)."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf
from torch import nn

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
