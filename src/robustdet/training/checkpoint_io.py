"""How a training's states are written and read: whole files, weights-only.

Lightning's own way writes into the system's folder for temporary files and moves the file from there; between two file
systems that is a copy, and a kill in the middle of it leaves half a checkpoint under its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from robustdet.files import read_tensors, whole


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's, but for the two."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with whole(path) as unfinished, unfinished.open("wb") as file:
            try:
                torch.save(checkpoint, file)  # to a path it does not say why it fails
            except RuntimeError as error:  # of closing the archive, after the disk has refused a part of it
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return dict(read_tensors(Path(path)))
