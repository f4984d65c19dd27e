"""Records that may stand side by side: of one split, one suite, one protocol and one rule of average precision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from robustdet.analysis.report.findings import Evaluated, setting
from robustdet.analysis.report.pareto import Sweep, sweeps
from robustdet.analysis.table import Table, TableSpec, attack_titles, summary
from robustdet.evaluation.record import Record
from robustdet.evaluation.worst_case import WORST_CASE

CLEAN = "clean"


@dataclass(frozen=True)
class Checkpoint:
    """All that one suite says about one set of weights; the records are in the order of the columns."""

    experiment: str
    hash: str
    evaluated: list[Evaluated]

    @property
    def name(self) -> str:
        return f"{self.experiment} ({self.hash})"

    @property
    def left_out(self) -> dict[str, list[str]]:
        """The attacks of the suite that were left out, by the reason."""
        found: dict[str, list[str]] = {}
        for one in self.evaluated:
            for attack, reason in one.record.left_out.items():
                found.setdefault(reason, []).append(attack)
        return found


@dataclass(frozen=True)
class Group:
    split: str
    suite: str
    protocol: str
    tabled: bool
    rule: str  # of AP
    evaluated: list[Evaluated]

    @property
    def key(self) -> str:
        """Names the group in links and file names."""
        parts = ["" if self.tabled else "not for comparison", self.split, self.suite, self.protocol, self.rule]
        return slug(" ".join(parts))

    @property
    def records(self) -> list[Record]:
        return [found.record for found in self.evaluated]

    def fits(self, spec: TableSpec) -> bool:
        """Whether these records may enter that table."""
        return spec.admits(self.records[0])  # and so all of them: they share what it looks at

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        found: dict[tuple[str, str], list[Evaluated]] = {}
        for one in self.evaluated:
            found.setdefault((one.record.run.experiment, one.checkpoint), []).append(one)
        return [Checkpoint(*key, evaluated) for key, evaluated in found.items()]

    @property
    def attack_settings(self) -> dict[str, str]:
        """How each attack was made, on a line; a suite whose settings were changed says so by several lines."""
        lines: dict[str, dict[str, None]] = {}
        for found in self.evaluated:
            if found.record.attack_settings is not None:
                lines.setdefault(found.record.attack, {})[describe(found.record.attack_settings)] = None
        return {attack: "\n".join(each) for attack, each in lines.items()}

    def sweeps(self, specs: Sequence[TableSpec]) -> list[Sweep]:
        return sweeps(self.evaluated, attack_titles(specs))

    def average_precision(self, specs: Sequence[TableSpec]) -> Table:
        """AP of every experiment under every attack, beside the paper's where the paper has this very setting."""
        fitting = [spec for spec in specs if self.fits(spec)]
        return self._named(summary(self.records, specs, f"AP ({self.rule}) on {self.split}", fitting))

    def each_checkpoint(self, specs: Sequence[TableSpec] = ()) -> Table | None:
        """AP of every checkpoint by itself; None where each experiment has but one."""
        if len(self.checkpoints) == len({checkpoint.experiment for checkpoint in self.checkpoints}):
            return None
        records = [
            _of_weights(found.record, checkpoint.name)
            for checkpoint in self.checkpoints
            for found in checkpoint.evaluated
        ]
        return self._named(summary(records, specs, f"AP ({self.rule}) of each checkpoint on {self.split}", []))

    def per_class(self, checkpoint: Checkpoint, specs: Sequence[TableSpec] = ()) -> Table:
        """AP of each class: classes down, attacks across. A class without objects has no row."""
        records = [
            replace(_of_weights(found.record, name), map=value)
            for found in checkpoint.evaluated
            for name, value in found.record.per_class.items()
            if value is not None
        ]
        table = summary(records, specs, f"AP ({self.rule}) of each class on {self.split}, {checkpoint.name}", [])
        classes_across = bool(records) and table.columns[0] == records[0].run.experiment  # as `summary` lays out many
        return self._named(_transposed(table) if classes_across else table)

    def _named(self, table: Table) -> Table:
        """With suite and protocol in its title: no number may be without."""
        warning = "" if self.tabled else "; not for comparison"
        return replace(table, title=f"{table.title} ({provenance(self.suite, self.protocol)}{warning})")


def slug(text: str) -> str:
    """For links and file names."""
    return "_".join(re.findall(r"[a-z0-9]+", text.lower()))


def provenance(suite: str, protocol: str) -> str:
    return f"suite={suite}, protocol={protocol}"


def group(evaluated: Iterable[Evaluated], specs: Sequence[TableSpec] = ()) -> list[Group]:
    """Groups by name. Experiments and attacks are in the order of the tables, clean images first, worst case last."""
    experiments = [row.experiment for spec in specs for row in spec.rows]

    def order(found: Evaluated) -> tuple[bool, int, str, int, str, str]:
        run, attack = found.record.run, found.record.attack
        attacks = [CLEAN, *(attack for spec in specs for attack in spec.columns)]
        return (
            attack == WORST_CASE,
            _place(attack, attacks),
            attack,
            _place(run.experiment, experiments),
            run.experiment,
            found.record.date,
        )

    groups: dict[tuple[str, str, str, bool, str], list[Evaluated]] = {}
    for found in sorted(evaluated, key=order):
        groups.setdefault(setting(found.record), []).append(found)
    return [Group(*key, groups[key]) for key in sorted(groups)]


def _of_weights(record: Record, title: str) -> Record:
    """For a table whose rows stand for weights, not for their training: ``title`` is the row's."""
    return replace(record, run=replace(record.run, experiment=title, training_recipe=None))


def _transposed(table: Table) -> Table:
    columns = zip(*(cells for _, cells in table.rows), strict=True)
    rows = [(title, list(cells)) for title, cells in zip(table.columns, columns, strict=True)]
    return replace(table, columns=[title for title, _ in table.rows], rows=rows)


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)


def describe(settings: Any) -> str:
    """A config as one would call it: ``PGD(objective=a_cls, threat=LInf(epsilon=8/255), steps=20)``."""
    if isinstance(settings, dict):
        target = str(settings.get("_target_", ""))
        if target.startswith("hydra.utils.get_"):
            return str(settings["path"]).rpartition(".")[2]
        fields = ", ".join(f"{key}={describe(value)}" for key, value in settings.items() if not key.startswith("_"))
        return f"{target.rpartition('.')[2]}({fields})" if target else fields
    if isinstance(settings, list):
        return f"[{', '.join(describe(value) for value in settings)}]"
    return f"{settings:.4g}" if isinstance(settings, float) else str(settings)
