"""Tables of results, made from records alone: experiments down, attacks across, the paper's number beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t

from robustdet.errors import InputError
from robustdet.evaluation.record import Record, RunInfo
from robustdet.evaluation.worst_case import WORST_CASE

MISNAMED = ("other_settings", "other_precision")  # flags of `robustdet.analysis.suite_settings`
WIDE = 7  # columns that a terminal has room for


@dataclass(frozen=True)
class RowSpec:
    title: str
    experiment: str
    paper: Sequence[float | None] = ()  # percent, in the order of the columns; empty where the paper has no such row


@dataclass(frozen=True)
class TableSpec:
    """What a table shows: ``columns`` maps attacks to titles; only records of suite, protocol and AP ``rule`` enter."""

    name: str
    title: str
    suite: str
    protocol: str
    rule: str
    columns: dict[str, str]
    rows: list[RowSpec]
    notes: Sequence[str] = ()

    def admits(self, record: Record) -> bool:
        run = record.run
        return run.tabled and (run.suite, run.protocol, record.ap_rule) == (self.suite, self.protocol, self.rule)

    def paper(self, experiment: str, attack: str) -> float | None:
        """The paper's number, percent, where it has one."""
        for row in self.rows:
            if row.experiment == experiment and row.paper and attack in self.columns:
                return row.paper[list(self.columns).index(attack)]
        return None


@dataclass(frozen=True)
class Cell:
    """AP in percent. Of several ``runs`` that differ only in their seed ``ours`` is the mean; of three and more, the
    true mean over seeds lies within ``spread`` of it with 95 % confidence (Student's t).
    """

    ours: float | None = None
    spread: float | None = None
    paper: float | None = None
    marks: tuple[str, ...] = ()  # keys of the table's footnotes
    runs: int = 0

    @property
    def ap(self) -> float:
        """Ours, where there is one."""
        assert self.ours is not None
        return self.ours


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    footnotes: dict[str, str] = field(default_factory=dict)  # text by mark
    notes: Sequence[str] = ()

    @property
    def has_ours(self) -> bool:
        return any(cell.ours is not None for _, cells in self.rows for cell in cells)

    @property
    def has_paper(self) -> bool:
        return any(cell.paper is not None for _, cells in self.rows for cell in cells)


def read_spec(content: Mapping[str, Any], source: str) -> TableSpec:
    """A table's yaml as plain data. Raises ValueError naming ``source`` and what is wrong with it."""
    try:
        spec = TableSpec(**{**content, "rows": [RowSpec(**row) for row in content["rows"]]})
    except (TypeError, KeyError) as error:
        raise InputError(f"{source}: not a table: {error}") from error
    for row in spec.rows:
        if row.paper and len(row.paper) != len(spec.columns):
            raise InputError(
                f"{source}: row {row.title!r} has {len(row.paper)} paper numbers for {len(spec.columns)} columns"
            )
    return spec


def fill(spec: TableSpec, records: Iterable[Record]) -> Table:
    """The table of ``spec`` from those records that belong in it; a row with no number at all is left out.

    Raises ValueError where they are of several splits, whose numbers do not compare.
    """
    experiments = [row.experiment for row in spec.rows]
    eligible = [record for record in records if spec.admits(record) and record.run.experiment in experiments]
    splits = sorted({record.run.split for record in eligible})
    if len(splits) > 1:
        raise InputError(f"table {spec.name}: a table is of one split, got records of {', '.join(splits)}")
    footnotes = _Footnotes(spec.columns)
    rows = []
    for row in spec.rows:
        ours = _row(eligible, row.experiment)
        cells = [_cell(_of(ours, attack), spec.paper(row.experiment, attack), footnotes) for attack in spec.columns]
        if any(cell.ours is not None or cell.paper is not None for cell in cells):
            rows.append((row.title, cells))
    shown = [_row(eligible, experiment) for experiment in experiments]
    notes = [*spec.notes, *_seeds_note(rows), *_weights_notes(shown), *_newest_notes(eligible, experiments)]
    return Table(spec.title, list(spec.columns.values()), rows, footnotes.texts, notes)


def attack_titles(specs: Sequence[TableSpec]) -> dict[str, str]:
    """The paper's name of each attack that it has, and ours of the worst case; others keep their own."""
    titles = {attack: title for spec in reversed(specs) for attack, title in spec.columns.items()}
    return {WORST_CASE: "Worst case"} | titles


def summary(
    records: Sequence[Record],
    specs: Sequence[TableSpec] = (),
    title: str = "Result",
    compared: Sequence[TableSpec] | None = None,
) -> Table:
    """What a run prints at its end: all of its records, with titles from ``specs``.

    The paper's numbers are from those ``compared``, all where it is None; a number under attack is set beside the
    paper's only where the suite is that of the paper's table. More attacks than `WIDE` go down, and experiments across.
    """
    attacks = list(dict.fromkeys(record.attack for record in records))
    titles = attack_titles(specs)
    footnotes = _Footnotes(titles)
    rows = []
    experiments = list(dict.fromkeys(record.run.experiment for record in records))
    for experiment in experiments:
        ours = _row(records, experiment)
        found = [_of(ours, attack) for attack in attacks]
        papers = [_paper(of, specs if compared is None else compared) for of in found]
        rows.append((experiment, [_cell(of, paper, footnotes) for of, paper in zip(found, papers, strict=True)]))
    columns = [titles.get(attack, attack) for attack in attacks]
    shown = [_row(records, experiment) for experiment in experiments]
    notes = [*_seeds_note(rows), *_weights_notes(shown), *_newest_notes(records, experiments)]
    if len(columns) > WIDE:
        cells = zip(*(cells for _, cells in rows), strict=True)
        columns, rows = experiments, list(zip(columns, map(list, cells), strict=True))
    return Table(title, columns, rows, footnotes.texts, notes)


class _Footnotes:
    """Each text once; '*' and its multiples mark numbers on part of a split, letters mark flags: one for each flag,
    however many numbers it stands with. ``titles`` are those of attacks.
    """

    def __init__(self, titles: Mapping[str, str]) -> None:
        self._titles = titles
        self._partial: dict[str, str] = {}  # mark by text
        self._flags: dict[str, list[tuple[str, str]]] = {}  # by its name: attacks and what was said of them

    def partial(self, text: str) -> str:
        return self._partial.setdefault(text, "*" * (1 + len(self._partial)))

    def flag(self, text: str, attack: str) -> str:
        name, _, sentence = text.partition(": ")
        self._flags.setdefault(name, []).append((self._titles.get(attack, attack), sentence))
        return _letter(list(self._flags).index(name))

    @property
    def texts(self) -> dict[str, str]:
        """By mark."""
        flags = {_letter(place): _once(name, said) for place, (name, said) in enumerate(self._flags.items())}
        return {mark: text for text, mark in self._partial.items()} | flags


def _letter(place: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[place] if place < 26 else f"z{place - 25}"


def _once(name: str, said: Sequence[tuple[str, str]]) -> str:
    """``name: sentence``; of several attacks ``name: sentence (a, b)``, or ``name: a, b, such as: sentence``."""
    attacks, sentences = (list(dict.fromkeys(column)) for column in zip(*said, strict=True))
    text = sentences[0]
    if len(sentences) > 1:
        text = f"{', '.join(attacks)}, such as: {text}"
    elif len(attacks) > 1:
        text = f"{text} ({', '.join(attacks)})".strip()
    return f"{name}: {text}" if text else name


def cells(records: Iterable[Record], experiment: str) -> dict[str, Cell]:
    """What `summary` says of an experiment, by attack."""
    row = _row(records, experiment)
    attacks = dict.fromkeys(record.attack for record in row)
    return {attack: _cell(_of(row, attack), None, _Footnotes({})) for attack in attacks}


def _row(records: Iterable[Record], experiment: str) -> list[Record]:
    """All records that may stand in one row with the experiment's newest (on a whole split if there is one)."""
    found = sorted((record for record in records if record.run.experiment == experiment), key=_precedence)
    return [record for record in found if _but_for_seed(record) == _but_for_seed(found[-1])]


def _of(row: Iterable[Record], attack: str) -> list[Record]:
    """Of a row the newest record under this attack, and the newest of each other run under the very same attack."""
    found = sorted((record for record in row if record.attack == attack), key=_precedence)
    same = [record for record in found if _extent(record) == _extent(found[-1])]
    return list({record.run.training_seed: record for record in same}.values())


def _precedence(record: Record) -> tuple[bool, bool, bool, str]:
    """Weights that training ended with before others, then the whole split, then what is what its suite's name says,
    then the newest: higher is taken.
    """
    return (
        not record.run.unfinished,
        not record.partial,
        not any(flag.startswith(MISNAMED) for flag in record.flags),
        record.date,
    )


def _but_for_seed(record: Record) -> tuple[RunInfo, str]:
    """All that the records of a row share. A checkpoint that comes without its run stands for itself."""
    identity = record.run.checkpoint_sha256 if record.run.training_recipe is None else None
    return replace(record.run, seed=0, training_seed=None, checkpoint=None, checkpoint_sha256=identity), record.ap_rule


def _extent(record: Record) -> tuple[Any, int]:
    """What records of a row under one attack must share besides, to be averaged."""
    return record.attack_settings, record.num_images


def _cell(records: Sequence[Record], paper: float | None, footnotes: _Footnotes) -> Cell:
    if not records:
        return Cell(paper=paper)
    values = [100 * record.map for record in records]
    marks = [footnotes.partial(f"on {r.num_images} of {r.run.split_size} images") for r in records if r.partial]
    marks += [footnotes.flag(flag, record.attack) for record in records for flag in record.flags]
    return Cell(mean(values), half_interval(values), paper, tuple(dict.fromkeys(marks)), len(records))


def half_interval(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Half the width of Student's confidence interval of the mean; None for fewer than three values.

    Of two it would be nine times their deviation, and say nothing.
    """
    if len(values) < 3:
        return None
    quantile = student_t.ppf((1 + confidence) / 2, len(values) - 1)
    return float(quantile * stdev(values) / len(values) ** 0.5)


def _seeds_note(rows: Sequence[tuple[str, Sequence[Cell]]]) -> list[str]:
    runs = sorted({cell.runs for _, cells in rows for cell in cells})
    several = [str(number) for number in runs if number > 2]
    notes = [f"±: 95 % interval of the mean over seeds (Student's t, {' or '.join(several)} runs)"] if several else []
    pairs = [title for title, cells in rows if any(cell.runs == 2 for cell in cells)]
    return [*notes, f"mean of two runs, too few for an interval: {', '.join(pairs)}"] if pairs else notes


def _weights_notes(rows: Iterable[Sequence[Record]]) -> list[str]:
    """For each row whose weights are not simply those of its training's last update."""
    runs = dict.fromkeys(record.run for row in rows for record in row)
    said = dict.fromkeys((run.experiment, text) for run in runs for text in weights_in_words(run))
    return [f"{experiment}: the weights {text}" for experiment, text in said]


def weights_in_words(run: RunInfo) -> list[str]:
    """What is to be said of them where they are not simply those of the last update of an exact training."""
    said = {
        "are unfinished, ": run.unfinished,
        "were trained with speed=": run.speed,
        "were chosen for ": run.kept_for,
        "are ": run.averaged,
    }
    return [f"{what}{value}" for what, value in said.items() if value]


def _newest_notes(records: Sequence[Record], experiments: Iterable[str]) -> list[str]:
    """For each experiment of which `_row` leaves records out."""
    notes = []
    for experiment in experiments:
        kinds = {_but_for_seed(record) for record in records if record.run.experiment == experiment}
        if len(kinds) > 1:
            notes.append(
                f"{experiment} was trained or evaluated in {len(kinds)} ways that differ in more than the seed: "
                "finished ones come before others, whole splits before parts, then the newest"
            )
    return notes


def _paper(records: Sequence[Record], specs: Sequence[TableSpec]) -> float | None:
    for record in records:
        for spec in specs:
            if record.attack == "clean" or record.run.suite == spec.suite:
                number = spec.paper(record.run.experiment, record.attack)
                if number is not None:
                    return number
    return None
