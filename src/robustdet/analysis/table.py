"""Tables of results, made from records alone: experiments down, attacks across, the paper's number beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t

from robustdet.evaluation.record import Record

WIDE = 8  # columns that a terminal has room for


@dataclass(frozen=True)
class RowSpec:
    title: str
    experiment: str
    paper: Sequence[float | None] = ()  # percent, in the order of the columns; empty where the paper has no such row


@dataclass(frozen=True)
class TableSpec:
    """What a table shows: ``columns`` maps attacks to titles; only records of this suite and protocol enter."""

    name: str
    title: str
    suite: str
    protocol: str
    columns: dict[str, str]
    rows: list[RowSpec]
    notes: Sequence[str] = ()

    def paper(self, experiment: str, attack: str) -> float | None:
        """The paper's number, percent, where it has one."""
        for row in self.rows:
            if row.experiment == experiment and row.paper and attack in self.columns:
                return row.paper[list(self.columns).index(attack)]
        return None


@dataclass(frozen=True)
class Cell:
    """AP in percent. Of several ``runs`` that differ only in their seed ``ours`` is the mean; the true mean over seeds
    lies within ``spread`` of it with 95 % confidence (Student's t).
    """

    ours: float | None = None
    spread: float | None = None
    paper: float | None = None
    marks: tuple[str, ...] = ()  # keys of the table's footnotes
    runs: int = 0


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    footnotes: dict[str, str] = field(default_factory=dict)  # text by mark
    notes: Sequence[str] = ()

    @property
    def has_paper(self) -> bool:
        return any(cell.paper is not None for _, cells in self.rows for cell in cells)


def read_spec(content: Mapping[str, Any], source: str) -> TableSpec:
    """A table's yaml as plain data. Raises ValueError naming ``source`` and what is wrong with it."""
    try:
        spec = TableSpec(**{**content, "rows": [RowSpec(**row) for row in content["rows"]]})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{source}: not a table: {error}") from error
    for row in spec.rows:
        if row.paper and len(row.paper) != len(spec.columns):
            raise ValueError(
                f"{source}: row {row.title!r} has {len(row.paper)} paper numbers for {len(spec.columns)} columns"
            )
    return spec


def fill(spec: TableSpec, records: Iterable[Record]) -> Table:
    """The table of ``spec`` from those records that belong in it; a row with no number at all is left out."""
    eligible = [
        record
        for record in records
        if record.run.tabled and (record.run.suite, record.run.protocol) == (spec.suite, spec.protocol)
    ]
    footnotes = _Footnotes()
    rows = [
        (
            row.title,
            [
                _cell(_of(eligible, row.experiment, attack), spec.paper(row.experiment, attack), footnotes)
                for attack in spec.columns
            ],
        )
        for row in spec.rows
    ]
    shown = [(title, cells) for title, cells in rows if any(c.ours is not None or c.paper is not None for c in cells)]
    return Table(spec.title, list(spec.columns.values()), shown, footnotes.texts, [*spec.notes, *_seeds_note(shown)])


def summary(records: Sequence[Record], specs: Sequence[TableSpec] = (), title: str = "Result") -> Table:
    """What a run prints at its end: all of its records, with titles and the paper's numbers from ``specs``.

    A number under attack is set beside the paper's only where the suite is that of the paper's table. More attacks than
    `WIDE` go down, and experiments across.
    """
    attacks = list(dict.fromkeys(record.attack for record in records))
    titles = {attack: title for spec in reversed(specs) for attack, title in spec.columns.items()}
    footnotes = _Footnotes()
    rows = []
    for experiment in dict.fromkeys(record.run.experiment for record in records):
        found = [_of(records, experiment, attack) for attack in attacks]
        papers = [_paper(of, specs) for of in found]
        rows.append((experiment, [_cell(of, paper, footnotes) for of, paper in zip(found, papers, strict=True)]))
    columns, notes = [titles.get(attack, attack) for attack in attacks], _seeds_note(rows)
    if len(columns) > WIDE:
        experiments, cells = zip(*rows, strict=True)
        columns, rows = list(experiments), list(zip(columns, map(list, zip(*cells, strict=True)), strict=True))
    return Table(title, columns, rows, footnotes.texts, notes)


class _Footnotes:
    """Each text once; '*' and its multiples mark numbers on part of a split, letters mark flags."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._marks: dict[str, str] = {}

    def partial(self, text: str) -> str:
        return self._mark(text, "*" * (1 + sum("*" in mark for mark in self.texts)))

    def flag(self, text: str) -> str:
        number = sum("*" not in mark for mark in self.texts)
        return self._mark(text, "abcdefghijklmnopqrstuvwxyz"[number] if number < 26 else f"z{number - 25}")

    def _mark(self, text: str, new: str) -> str:
        mark = self._marks.setdefault(text, new)
        self.texts[mark] = text
        return mark


def _of(records: Iterable[Record], experiment: str, attack: str) -> list[Record]:
    """The newest record, on a whole split if there is one, and the newest of each run that differs only in its seed."""
    of_attack = [r for r in records if (r.run.experiment, r.attack) == (experiment, attack)]
    if not of_attack:
        return []
    ordered = sorted(of_attack, key=lambda record: (not record.partial, record.date))
    same = [record for record in ordered if _but_for_seed(record) == _but_for_seed(ordered[-1])]
    return list({record.run.training_seed: record for record in same}.values())


def _but_for_seed(record: Record) -> tuple[Any, ...]:
    """All that two records must share to be averaged. A checkpoint that comes without its run stands for itself."""
    identity = record.run.checkpoint_sha256 if record.run.training_recipe is None else None
    run = replace(record.run, seed=0, training_seed=None, checkpoint=None, checkpoint_sha256=identity)
    return run, record.attack_settings, record.num_images


def _cell(records: Sequence[Record], paper: float | None, footnotes: _Footnotes) -> Cell:
    if not records:
        return Cell(paper=paper)
    values = [100 * record.map for record in records]
    marks = [footnotes.partial(f"on {r.num_images} of {r.run.split_size} images") for r in records if r.partial]
    marks += [footnotes.flag(flag) for record in records for flag in record.flags]
    return Cell(mean(values), half_interval(values), paper, tuple(dict.fromkeys(marks)), len(records))


def half_interval(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Half the width of Student's confidence interval of the mean; None for a single value."""
    if len(values) < 2:
        return None
    quantile = student_t.ppf((1 + confidence) / 2, len(values) - 1)
    return float(quantile * stdev(values) / len(values) ** 0.5)


def _seeds_note(rows: Sequence[tuple[str, Sequence[Cell]]]) -> list[str]:
    runs = sorted({cell.runs for _, cells in rows for cell in cells if cell.runs > 1})
    if not runs:
        return []
    return [f"±: 95 % interval of the mean over seeds (Student's t, {' or '.join(map(str, runs))} runs)"]


def _paper(records: Sequence[Record], specs: Sequence[TableSpec]) -> float | None:
    for record in records:
        for spec in specs:
            if record.attack == "clean" or record.run.suite == spec.suite:
                number = spec.paper(record.run.experiment, record.attack)
                if number is not None:
                    return number
    return None
