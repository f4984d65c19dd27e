"""`python -m src.export ckpt_path=… output=model.onnx format=onnx`: a checkpoint as one file for other runtimes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from robustdet.cli.building import prepare
from robustdet.cli.launcher import launcher
from robustdet.cli.subjects import checkpoints, keys_of, without_data
from robustdet.errors import InputError
from robustdet.interop.export import Format, export
from robustdet.interop.exported import Agreement, agreement, reader

IMAGES = 3  # of noise, on which the file is compared with the detector


def run(cfg: DictConfig, overrides: Iterable[str] = ()) -> Path:
    """Writes the file, asks it and the detector about the same images, and says how far apart they are.

    ``overrides`` are the command-line arguments that ``cfg`` comes from.
    """
    prepare(cfg)
    found = checkpoints(cfg, keys_of(overrides))
    if len(found) != 1:
        raise InputError(f"src.export writes one detector, got {len(found)}: {', '.join(found)}")
    ((label, one),) = found.items()
    detector, classes = without_data(one, cfg)
    file = Path(cfg.output)
    export(detector, file, cfg.format, classes, one.name)
    print(f"{label}: {file} ({file.stat().st_size / 1e6:.1f} MB), classes {', '.join(classes)}")
    print(compared(detector, file, cfg.format, cfg.seed))
    return file


def compared(detector: Any, file: Path, kind: Format, seed: int) -> str:
    side = detector.input_size
    images = torch.rand(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(seed))
    try:
        read = reader(file, kind)
    except InputError as error:
        return f"It was not compared with the detector: {error}"
    found: Agreement = agreement(detector, read, images)
    return f"On {IMAGES} images of noise it agrees in {found}"


@launcher("export")
def main(cfg: DictConfig) -> None:
    run(cfg, HydraConfig.get().overrides.task)
