"""What evaluations and analyses left on disk: records, damaged records, pictures and figures, each with its file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from robustdet.evaluation.record import Record, read_record


@dataclass(frozen=True)
class Evaluated:
    """A record and its file, ``<run>/evaluation/<suite>/records/<attack>.json``."""

    record: Record
    file: Path

    @property
    def run(self) -> Path:
        """The folder of the training run (for a checkpoint from elsewhere: the folder that stands for it)."""
        return self.file.absolute().parents[3]

    @property
    def checkpoint(self) -> str:
        """A short name of the weights: the beginning of their hash."""
        return (self.record.run.checkpoint_sha256 or "no hash")[:8]

    @property
    def loss_weights(self) -> dict[str, float]:
        """γ, β, a, b, c of the training run under their keys; empty where the run's config is not at hand."""
        config = self.run / "config.yaml"
        if not config.is_file():
            return {}
        loss = (yaml.safe_load(config.read_text()) or {}).get("loss") or {}
        return {key: value for key, value in loss.items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class Damaged:
    """A record that could not be read, and why."""

    file: Path
    reason: str


@dataclass(frozen=True)
class Findings:
    evaluated: list[Evaluated]
    damaged: list[Damaged]
    pictures: list[Path]  # beside records
    figures: list[Path]  # of analyses


def find(folders: Iterable[Path | str]) -> Findings:
    """Everything to report anywhere below ``folders``.

    Raises FileNotFoundError naming a folder that does not exist or, where there is no record at all, all of them.
    """
    roots = [Path(folder) for folder in folders]
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"folders: {root} is no folder; expected one with records of evaluations below it")
    files = sorted({file.absolute() for root in roots for file in root.rglob("records/*.json")})
    if not files:
        raise FileNotFoundError(
            f"no records (…/records/*.json) below {', '.join(map(str, roots))}: nothing to report. "
            "`python -m src.evaluate experiment=… ckpt_path=… suite=paper` writes them"
        )
    evaluated, damaged = [], []
    for file in files:
        try:
            evaluated.append(Evaluated(read_record(file), file))
        except (ValueError, OSError) as error:
            damaged.append(Damaged(file, str(error).removeprefix(f"{file}: ")))
    beside = sorted({found.file.parents[1] for found in evaluated})
    pictures = [picture for folder in beside for picture in sorted(folder.glob("*.png"))]
    figures = sorted({figure.absolute() for root in roots for figure in root.rglob("analysis/**/*.png")})
    return Findings(newest(evaluated), damaged, pictures, figures)


def newest(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """One of each weights, split, suite, protocol and attack: the newest, and one on the whole split before others."""
    best: dict[tuple[str | None, ...], Evaluated] = {}
    for found in sorted(evaluated, key=lambda found: (not found.record.partial, found.record.date)):
        run = found.record.run
        key = (run.experiment, run.checkpoint_sha256, run.split, run.suite, run.protocol, found.record.attack)
        best[key] = found
    return list(best.values())
