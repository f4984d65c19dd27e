"""A Weights & Biases run that belongs to a folder: a job that goes on in the folder goes on in the run."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from robustdet.errors import StateError
from robustdet.files import write_text

ID_FILE = "wandb_run.txt"
NOT_ONLINE = (
    "W&B cannot be reached or does not know you. WANDB_MODE=offline logs to the run's folder, to be uploaded "
    "later with `wandb sync`; `wandb login` or WANDB_API_KEY tell who you are; logger=csv does without."
)
NO_HOME = "W&B keeps its settings in the home folder: set HOME to a folder that you can write to, as in HOME=/tmp."


class WandbRun(WandbLogger):
    """Lightning's W&B logger, whose run's id is kept in ``save_dir/wandb_run.txt``.

    ``mode`` is "online", "offline" or "disabled"; None leaves it to wandb, which asks WANDB_MODE and is online unless
    it says otherwise. All other settings are Lightning's and `wandb.init`'s.
    Checkpoints become artifacts with ``log_model``: True keeps those that are there at the end, "all" each as it comes.
    """

    def __init__(self, save_dir: str | Path, mode: str | None = None, **settings: Any) -> None:
        if mode is not None:
            settings["mode"] = mode
        super().__init__(save_dir=save_dir, id=_id_of(Path(save_dir)), **settings)

    @property
    def experiment(self) -> Any:
        """wandb's run, started when it is first asked for; RuntimeError says what to do where it cannot be."""
        try:
            return super().experiment
        except wandb.errors.Error as error:
            raise StateError(f"{error}\n{NOT_ONLINE}") from error
        except RuntimeError as error:
            if "home directory" not in str(error):
                raise
            raise StateError(f"{error} {NO_HOME}") from error

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
        write_text(file, uuid.uuid4().hex[:8] + "\n")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""
