"""A run that goes on keeps the rows of what it does not do again, and no others."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from robustdet.training.csv_logger import AppendingCSVLogger

ROWS = [
    (0, {"lr": 0.1}),
    (0, {"train/loss": 3.0, "epoch": 0}),
    (1, {"lr": 0.2}),
    (1, {"train/loss": 2.0, "epoch": 0}),
    (1, {"val/AP50": 0.5, "epoch": 0}),
    (2, {"lr": 0.3}),
]


def log(folder: Path, *rows: tuple[int, dict[str, float]]) -> list[tuple[int, str]]:
    """All that is in the file after a process has logged ``rows``: step and metric of each."""
    logger = AppendingCSVLogger(folder, name="", version="csv", flush_logs_every_n_steps=1)
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
        logger.save()
    with (folder / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    return [(int(row["step"]), name) for row in found for name in ("lr", "train/loss", "val/AP50") if row[name]]


@pytest.mark.parametrize(
    ("first", "kept"),
    [
        ((2, {"lr": 0.3}), 5),
        ((1, {"lr": 0.2}), 2),
        ((1, {"val/AP50": 0.5, "epoch": 0}), 4),  # only the validation is made again
        ((3, {"lr": 0.4}), 6),
    ],
)
@pytest.mark.parametrize("rest", ["", "0.7,", "0.7,0,,2"])
def test_what_is_made_again_is_there_once(first: tuple[int, dict[str, float]], kept: int, rest: str, tmp_path: Path):
    before = log(tmp_path, *ROWS)
    with (tmp_path / "csv" / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write(rest)  # of a line that a kill has cut off
    assert log(tmp_path, first) == [*before[:kept], (first[0], next(iter(first[1])))]
