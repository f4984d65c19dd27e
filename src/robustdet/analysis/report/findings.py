"""What training, evaluations and analyses left on disk: records, pictures and figures, and what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from robustdet.analysis.suite_settings import with_differences
from robustdet.errors import InputError, MissingFileError
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
        return loss_weights(self.run)


@dataclass(frozen=True)
class Trained:
    """A finished training run: the content of its ``run.json``."""

    folder: Path
    experiment: str
    updates: int
    pruned: bool
    metrics: dict[str, float]  # by name, "val/AP50_clean" and "val/AP50_attacked" in [0, 1] among them
    best: dict[str, str] = field(default_factory=dict)  # its chosen states: by what, in words, by their files

    @property
    def loss_weights(self) -> dict[str, float]:
        return loss_weights(self.folder)


def loss_weights(run: Path) -> dict[str, float]:
    """γ, β, a, b, c of a training run under their keys; empty where the run's config is not at hand, or none."""
    config = run / "config.yaml"
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    loss = settings.get("loss") if isinstance(settings, dict) else None
    if not isinstance(loss, dict):
        return {}
    return {key: value for key, value in loss.items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class Damaged:
    """A file that could not be read, and why."""

    file: Path
    reason: str


@dataclass(frozen=True)
class Findings:
    evaluated: list[Evaluated]
    trained: list[Trained]
    damaged: list[Damaged]
    pictures: list[Path]  # beside the records that count
    figures: list[Path]  # of analyses


def find(folders: Iterable[Path | str]) -> Findings:
    """Everything to report anywhere below ``folders``.

    Raises FileNotFoundError naming a folder that does not exist or, where there is no record at all, all of them.
    """
    roots = [Path(folder) for folder in folders]
    for root in roots:
        if not root.is_dir():
            raise MissingFileError(f"folders: {root} is no folder; expected one with records of evaluations below it")

    def below(pattern: str) -> list[Path]:
        return sorted({file for root in roots for file in root.rglob(pattern)})

    damaged: list[Damaged] = []
    records = below("records/*.json")
    if not records:
        raise MissingFileError(
            f"no records (…/records/*.json) below {', '.join(map(str, roots))}: nothing to report. "
            "`python -m src.evaluate experiment=… ckpt_path=… suite=paper` writes them"
        )
    evaluated = list(_read(records, lambda file: Evaluated(read_record(file), file), damaged))
    trained = list(_read(below("run.json"), read_run, damaged))
    counting = newest(evaluated)
    beside = dict.fromkeys(found.file.parents[1] for found in counting)
    pictures = [picture for folder in beside for picture in sorted(folder.glob("*.png"))]
    return Findings(counting, trained, damaged, pictures, below("analysis/**/*.png"))


def of_records(records: Iterable[Record]) -> Findings:
    """Of records that are at hand, as `find` would give them had they been written: without pictures."""
    evaluated = []
    for record in records:
        one = Evaluated(record, Path())
        folder = Path(f"{record.run.experiment} {one.checkpoint}", "evaluation", record.run.suite, "records")
        evaluated.append(replace(one, file=folder / f"{record.attack}.json"))
    return Findings(newest(evaluated), [], [], [], [])


def with_suites(findings: Findings, suites: Mapping[tuple[str, str], Mapping[str, Any]]) -> Findings:
    """With the flags of records that are not what their suite's name says; see `with_differences`."""
    records = with_differences([found.record for found in findings.evaluated], suites)
    evaluated = [replace(found, record=record) for found, record in zip(findings.evaluated, records, strict=True)]
    return replace(findings, evaluated=evaluated)


def read_run(file: Path) -> Trained:
    """Raises ValueError where it is no ``run.json`` of a training run."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Trained(
            file.parent,
            content["experiment"],
            content["updates"],
            content.get("pruned", False),
            content["metrics"],
            {str(state): str(by) for state, by in content.get("best", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"not a finished training run: {error!r}") from error


Found = TypeVar("Found")


def _read(files: Iterable[Path], read: Callable[[Path], Found], damaged: list[Damaged]) -> Iterator[Found]:
    """What can be read; what cannot is added to ``damaged``."""
    for file in files:
        try:
            yield read(file)
        except (ValueError, OSError) as error:
            damaged.append(Damaged(file, str(error).removeprefix(f"{file}: ")))


def newest(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """One of each weights, attack and `setting`: the newest, and one on the whole split before others."""
    best: dict[tuple[Any, ...], Evaluated] = {}
    for found in sorted(evaluated, key=lambda found: (not found.record.partial, found.record.date)):
        run = found.record.run
        best[run.experiment, run.checkpoint_sha256, found.record.attack, *setting(found.record)] = found
    return list(best.values())


def setting(record: Record) -> tuple[str, str, str, bool, str]:
    """What numbers must share to stand side by side: split, suite, protocol, whether tabled, rule of AP."""
    return record.run.split, record.run.suite, record.run.protocol, record.run.tabled, record.ap_rule
