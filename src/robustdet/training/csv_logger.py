"""Lightning's CSV logger, but a run that goes on in its folder goes on in its file."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers.csv_logs import CSVLogger, ExperimentWriter

from robustdet.files import whole


class AppendingCSVLogger(CSVLogger):
    """Keeps the rows that are in ``metrics.csv`` already, up to the one that the first new row repeats.

    Later ones are of updates that were made after the last checkpoint and are now made again.
    """

    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Left out: a run's settings are in its config.yaml."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if not isinstance(self._experiment, _AppendingWriter):
            os.makedirs(self.log_dir, exist_ok=True)
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment


class _AppendingWriter(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.begun = False

    def _check_log_dir_exists(self) -> None:
        """The base class deletes the file here."""

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        if not self.begun and os.path.isfile(self.metrics_file_path) and step is not None:
            self._keep_before(step, metrics_dict)
        self.begun = True
        super().log_metrics(metrics_dict, step)

    def _keep_before(self, step: int, metrics: dict[str, Any]) -> None:
        def is_before(row: dict[str, str]) -> bool:
            if None in row or not (row.get("step") or "").isdigit():  # of a file that was damaged since
                return False
            repeated = any(row.get(name) for name in metrics if name != "epoch")
            return int(row["step"]) < step or (int(row["step"]) == step and not repeated)

        text = Path(self.metrics_file_path).read_text(encoding="utf-8", errors="replace")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        self.metrics_keys = list(reader.fieldnames or [])
        self._write(takewhile(is_before, reader))

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """The base class has the file empty for a moment, in which a kill would lose the curves."""
        with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
            self._write(csv.DictReader(file))

    def _write(self, rows: Iterable[dict[str, str]]) -> None:
        with whole(self.metrics_file_path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
