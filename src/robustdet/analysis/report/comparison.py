"""What a reader wants to know first: what each detector keeps, on clean images and under attack; and what that says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from robustdet.analysis.report.groups import CLEAN, Group
from robustdet.analysis.table import Cell, TableSpec, attack_titles, cells
from robustdet.evaluation.worst_case import WORST_CASE

Cells: TypeAlias = dict[str, dict[str, Cell]]
"""By experiment and attack."""


@dataclass(frozen=True)
class Kind:
    """One of the bars that every detector may have: ``name`` is for style, ``text`` for the legend.

    ``under`` begins what is said of it.
    """

    name: str
    text: str
    under: str


@dataclass(frozen=True)
class Bar:
    """AP in percent, and the attack that left it where it is one of several."""

    kind: Kind
    ap: float
    spread: float | None
    flagged: bool
    partial: bool  # measured on part of the split
    attack: str = ""

    @property
    def text(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.1f}"
        return f"{self.ap:.1f}{spread}{' ⚑' if self.flagged else ''}{f' {self.attack}' if self.attack else ''}"


@dataclass(frozen=True)
class Comparison:
    """Detectors in the order of the tables; every kind of bar is of one suite, which its legend names."""

    setting: str
    kinds: list[Kind]
    rows: dict[str, list[Bar]]  # by experiment
    cautions: list[str]

    @property
    def spoken(self) -> str:
        """The chart in words, for whoever cannot see it."""
        return "; ".join(
            f"{experiment}: {', '.join(f'{bar.kind.under.lower()} {bar.text}' for bar in bars)}"
            for experiment, bars in self.rows.items()
        )

    @property
    def conclusions(self) -> list[str]:
        """For each kind of attack: which detector keeps most, and whether another may be as good."""
        said = []
        for kind in self.kinds:
            found = {experiment: bar for experiment, bars in self.rows.items() for bar in bars if bar.kind is kind}
            if kind.name != CLEAN and found:
                said.append(_conclusion(kind, found, self.rows))
        return said


def _conclusion(kind: Kind, found: Mapping[str, Bar], rows: Mapping[str, Sequence[Bar]]) -> str:
    best, *others = sorted(found, key=lambda experiment: -found[experiment].ap)
    bar = found[best]
    clean = next((f" of its {one.ap:.1f} points of clean AP" for one in rows[best] if one.kind.name == CLEAN), "")
    text = f"{kind.under}, {best} keeps {'most: ' if others else ''}{bar.ap:.1f}{clean}"
    if bar.attack:
        text += f", least under {bar.attack}"
    if others:
        second = found[others[0]]
        text += f"; next is {others[0]} with {second.ap:.1f}"
        if bar.spread is not None and second.spread is not None and bar.ap - second.ap < bar.spread + second.spread:
            text += ", within the intervals of both"
    return text + "."


def compare(groups: Sequence[Group], specs: Sequence[TableSpec]) -> Comparison | None:
    """The comparison that a page opens with: of the one split, protocol and rule of AP with the most detectors.

    Numbers that are not for comparison are shown where there are no others. None where no image was attacked.
    """
    settings: dict[tuple[bool, str, str, str], list[Group]] = {}
    for one in groups:
        settings.setdefault((one.tabled, one.split, one.protocol, one.rule), []).append(one)
    attacked = {key: of for key, of in settings.items() if any(r.attack != CLEAN for g in of for r in g.records)}
    if not attacked:
        return None
    key = max(attacked, key=lambda key: (key[0], len(_experiments(attacked[key], specs)), _newest(attacked[key])))
    return _comparison(attacked[key], specs)


def _comparison(groups: Sequence[Group], specs: Sequence[TableSpec]) -> Comparison:
    titles = attack_titles(specs)
    of_paper = [attack for attack in titles if attack not in (CLEAN, WORST_CASE)]
    suites = [(one.suite, _cells(one)) for one in groups]
    published = [(name, of) for name, of in suites if name in {spec.suite for spec in specs}]
    kinds: list[Kind] = []
    bars: dict[str, list[Bar]] = {experiment: [] for experiment in _experiments(groups, specs)}

    def add(kind: Kind, found: Cells) -> None:
        several = len({attack for of in found.values() for attack in of}) > 1
        kinds.append(kind)
        for experiment, of in found.items():
            attack, cell = min(of.items(), key=lambda item: item[1].ap)
            partial = [mark for mark in cell.marks if "*" in mark]
            name = titles.get(attack, attack) if several else ""
            flagged = len(cell.marks) > len(partial)
            bars[experiment].append(Bar(kind, cell.ap, cell.spread, flagged, bool(partial), name))

    clean = _only(published + suites, [CLEAN])
    add(Kind(CLEAN, "clean images", "On clean images"), {k: v for _, of in reversed(clean) for k, v in of.items()})
    paper = _only(published, of_paper) or _only(suites, of_paper)
    if paper:
        suite, found = max(paper, key=_size)
        text = f"the lowest of the paper's attacks: {', '.join(titles[attack] for attack in of_paper)} (suite={suite})"
        add(Kind("paper", text, "Under the paper's attacks"), found)
    worst = sorted(_only(suites, [WORST_CASE]), key=lambda one: _mean(one[1]))
    if worst:
        suite, found = max(worst, key=_size)  # of those with most detectors the hardest, which is first
        text = f"worst case: each image under the attack that hurts it most (suite={suite})"
        add(Kind("worst", text, "In the worst case"), found)
    first = groups[0]
    shown = {experiment: of for experiment, of in bars.items() if of}
    setting = f"AP ({first.rule}) on {first.split}, protocol={first.protocol}"
    return Comparison(setting, kinds, shown, _cautions(groups, shown))


def _experiments(groups: Sequence[Group], specs: Sequence[TableSpec]) -> list[str]:
    """Those with a record, in the order of the tables."""
    order = list(dict.fromkeys(row.experiment for spec in specs for row in spec.rows))
    found = dict.fromkeys(record.run.experiment for one in groups for record in one.records)
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def _newest(groups: Sequence[Group]) -> str:
    return max(record.date for one in groups for record in one.records)


def _cells(one: Group) -> Cells:
    return {name: cells(one.records, name) for name in dict.fromkeys(record.run.experiment for record in one.records)}


def _only(suites: Sequence[tuple[str, Cells]], attacks: Sequence[str]) -> list[tuple[str, Cells]]:
    """Of each suite the detectors under these attacks: under those that all have, as others do not compare."""
    found = []
    for name, of_suite in suites:
        some = {k: {a: of[a] for a in attacks if a in of} for k, of in of_suite.items() if set(attacks) & set(of)}
        shared = set.intersection(*map(set, some.values())) if some else set()
        if shared:
            found.append((name, {k: {a: of[a] for a in of if a in shared} for k, of in some.items()}))
    return found


def _size(suite: tuple[str, Cells]) -> int:
    return len(suite[1])


def _mean(found: Cells) -> float:
    values = [cell.ap for of in found.values() for cell in of.values()]
    return sum(values) / len(values)


def _cautions(groups: Sequence[Group], rows: Mapping[str, Sequence[Bar]]) -> list[str]:
    """What must be known of these numbers before they are believed."""
    said = []
    if not groups[0].tabled:
        said.append("Not for comparison: few images or few steps.")
    partial = {name: _images(groups, name) if any(bar.partial for bar in bars) else "" for name, bars in rows.items()}
    if len(set(partial.values())) > 1:
        said += [f"{name}: on {images} images." for name, images in partial.items() if images]
    else:
        said += [f"On {images} images." for images in set(partial.values()) if images]
    single = [name for name, bars in rows.items() if all(bar.spread is None for bar in bars)]
    if len(rows) > 1 and single:
        which = "each" if len(single) == len(rows) else f"of {', '.join(single)}"
        said.append(f"One or two training runs {which}, so no interval: a difference of a few points may be chance.")
    if any(bar.flagged for bars in rows.values() for bar in bars):
        said.append("⚑ A check found reason to doubt this number; see the flags.")
    return said


def _images(groups: Sequence[Group], experiment: str) -> str:
    """How many of the split's, where it was not all."""
    of = [record for one in groups for record in one.records if record.run.experiment == experiment and record.partial]
    return ", ".join(sorted({f"{record.num_images} of {record.run.split_size}" for record in of}))
