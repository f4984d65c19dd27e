"""A Weights & Biases run that belongs to a folder: a job that goes on in the folder goes on in the run."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

ID_FILE = "wandb_run.txt"


class WandbRun(WandbLogger):
    """Lightning's W&B logger, whose run's id is kept in ``save_dir/wandb_run.txt``.

    ``mode`` is "online", "offline" or "disabled"; None is online where a key is in the environment (WANDB_API_KEY),
    else offline, to be uploaded later with ``wandb sync``. All other settings are Lightning's and `wandb.init`'s.
    Checkpoints become artifacts with ``log_model``: True keeps those that are there at the end, "all" each as it comes.
    """

    def __init__(self, save_dir: str | Path, mode: str | None = None, **settings: Any) -> None:
        mode = mode or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        super().__init__(save_dir=save_dir, id=_id_of(Path(save_dir)), mode=mode, **settings)

    @rank_zero_only
    def finish(self, failed: bool) -> None:
        """Ends the run, so that the next job of this process starts one of its own."""
        if self._experiment is not None:
            if self._experiment is wandb.run:
                wandb.finish(exit_code=int(failed))
            self._experiment = None


def _id_of(folder: Path) -> str:
    file = folder / ID_FILE
    if not file.is_file() and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(uuid.uuid4().hex[:8] + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""
