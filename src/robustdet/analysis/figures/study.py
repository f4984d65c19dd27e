"""What an analysis is handed, and what it hands back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from matplotlib.figure import Figure

from robustdet.errors import InputError
from robustdet.evaluation.metric import Metric
from robustdet.files import whole
from robustdet.types import Batch, Detector, HasLosses

BITMAP_DPI = 160


@dataclass(frozen=True)
class Subject:
    """A trained detector in evaluation mode, under the name that figures give it."""

    label: str
    model: Any  # an nn.Module that is a robustdet.types.Detector


@dataclass(frozen=True)
class Study:
    """Trained detectors, all with the same classes and input size, and the images of one split to look at them with.

    ``batches`` can be gone through again and again, always in the same order; ``size`` is the number of its images.
    ``validation`` gives those of the validation split, which are read when it is first called.
    """

    subjects: Sequence[Subject]
    batches: Iterable[Batch]
    size: int
    split: str
    class_names: Sequence[str]  # of labels 1..C
    metric: Metric
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    validation: Callable[[], Iterable[Batch]] = tuple

    def first(self, count: int | None) -> Iterator[Batch]:
        """The first ``count`` images (None: all), batch by batch, on the device."""
        left = self.count(count)
        for batch in self.batches:
            if left <= 0:
                return
            yield Batch(batch.images[:left], batch.targets[:left]).to(self.device)
            left -= len(batch)

    def count(self, wanted: int | None) -> int:
        """How many images there are for an analysis that wants so many (None: all)."""
        return self.size if wanted is None else min(wanted, self.size)

    def caption(self, count: int | None) -> str:
        """What a figure stands on, such as "first 60 of 300 images of shapes test"."""
        used = self.count(count)
        return (
            f"{used} images of {self.split}"
            if used == self.size
            else f"first {used} of {self.size} images of {self.split}"
        )


@dataclass(frozen=True)
class Findings:
    """A figure, the numbers that it shows (dataclasses ``kind``, a CSV row each), what they say in sentences, and what
    else was made: ``files`` by their names.
    """

    figure: Figure
    kind: type
    rows: Sequence[Any]
    notes: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


@runtime_checkable
class Analysis(Protocol):
    def __call__(self, study: Study) -> Findings: ...


def save(findings: Findings, folder: Path, name: str) -> list[Path]:
    """Write ``folder/name`` .pdf, .png and .csv, and the other files; the same findings give the same bytes."""
    pdf, png, table = (folder / f"{name}.{ending}" for ending in ("pdf", "png", "csv"))
    with whole(pdf) as unfinished:
        findings.figure.savefig(unfinished, metadata={"CreationDate": None}, format="pdf")
    with whole(png) as unfinished:
        findings.figure.savefig(unfinished, dpi=BITMAP_DPI, format="png")
    with whole(table) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(findings.kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _short(value) for key, value in asdict(row).items()} for row in findings.rows)
    for other, content in findings.files.items():
        with whole(folder / other) as unfinished:
            unfinished.write_bytes(content)
    return [pdf, png, table, *(folder / other for other in findings.files)]


def _short(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value


def require_detectors(study: Study) -> None:
    """Raises ValueError naming the first subject that is in training mode or no detector."""
    for subject in study.subjects:
        if not isinstance(subject.model, Detector):
            raise InputError(f"{subject.label} is no detector but a {type(subject.model).__name__}")
        if subject.model.training:
            raise InputError(f"{subject.label} is in training mode: call .eval() before it is analysed")


def require_losses(study: Study) -> None:
    """Raises ValueError naming the first subject that offers its detections alone."""
    for subject in study.subjects:
        if not isinstance(subject.model, HasLosses):
            raise InputError(
                f"{subject.label} offers its detections alone, and this analysis looks at losses: it needs a detector "
                "that has them, such as torchvision's"
            )
