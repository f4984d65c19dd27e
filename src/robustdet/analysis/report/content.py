"""What a report says, before it is written as a page or as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from robustdet.analysis.rendering import to_csv, to_latex, to_markdown
from robustdet.analysis.report.comparison import Comparison, compare
from robustdet.analysis.report.curves import Curves, curves
from robustdet.analysis.report.findings import Evaluated, Findings
from robustdet.analysis.report.gallery import Picture, detections, figures
from robustdet.analysis.report.groups import Group, group, provenance, slug
from robustdet.analysis.report.pareto import Sweep, training_sweeps
from robustdet.analysis.table import Table, TableSpec, attack_titles, fill
from robustdet.evaluation.record import Record
from robustdet.files import write_text

WRITERS = {"md": to_markdown, "tex": to_latex, "csv": to_csv}
COLUMNS = """
experiment method data split suite protocol tabled seed training_seed checkpoint_sha256 attack threat ap_rule map
area_map area_bound map_50_95 image_ap num_images split_size partial linf_max linf_8bit_max objects found_clean found
kept mislabelled vanished fabricated_clean fabricated cost_missed cost_classification cost_localization cost_both
cost_duplicate cost_background false_positives_cost false_negatives_cost misnamed alarms hidden visible_map flags
seconds forward_passes date file
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper with ours beside it, under the name of its files."""

    name: str
    table: Table


@dataclass(frozen=True)
class Run:
    """One set of weights, and all that was measured of it."""

    experiment: str
    hash: str
    evaluated: list[Evaluated]

    @property
    def newest(self) -> Evaluated:
        return max(self.evaluated, key=lambda found: found.record.date)

    @property
    def seconds(self) -> float:
        return sum(found.record.seconds for found in self.evaluated)


@dataclass(frozen=True)
class Report:
    findings: Findings
    specs: Sequence[TableSpec]

    @cached_property
    def paper_tables(self) -> list[PaperTable]:
        return [paper for spec in self.specs for paper in self._filled(spec)]

    def _filled(self, spec: TableSpec) -> list[PaperTable]:
        """A table for each split that ours are of; the paper's numbers alone where there is none."""
        setting = provenance(spec.suite, spec.protocol)
        filled = {one.split: fill(spec, one.records) for one in self.groups if one.fits(spec)}
        ours = {split: table for split, table in filled.items() if table.has_ours}
        if not ours:
            return [PaperTable(spec.name, _retitled(fill(spec, []), setting))]
        return [
            PaperTable(
                spec.name if len(ours) == 1 else f"{spec.name}_{slug(split)}",
                _retitled(table, f"ours on {split}, {setting}"),
            )
            for split, table in ours.items()
        ]

    @cached_property
    def groups(self) -> list[Group]:
        return group(self.findings.evaluated, self.specs)

    @property
    def training_sweeps(self) -> list[Sweep]:
        return training_sweeps(self.findings.trained)

    @property
    def runs(self) -> list[Run]:
        found: dict[tuple[str, str], list[Evaluated]] = {}
        for one in self.findings.evaluated:
            found.setdefault((one.record.run.experiment, one.checkpoint), []).append(one)
        return [Run(*key, found[key]) for key in sorted(found)]

    @property
    def raised(self) -> dict[str, list[Record]]:
        """The records that carry each flag, by the flag's name; in the order of the tables."""
        raised: dict[str, list[Record]] = {}
        for record in (record for one in self.groups for record in one.records):
            for name in dict.fromkeys(flag.partition(":")[0] for flag in record.flags):
                raised.setdefault(name, []).append(record)
        return dict(sorted(raised.items()))

    def where(self, name: str) -> dict[str, list[str]]:
        """The attacks whose numbers carry this flag, by experiment."""
        found: dict[str, dict[str, None]] = {}
        for record in self.raised[name]:
            title = self.titles.get(record.attack, record.attack)
            found.setdefault(record.run.experiment, {})[title] = None
        return {experiment: list(attacks) for experiment, attacks in found.items()}

    @property
    def titles(self) -> dict[str, str]:
        """Of attacks: the paper's names."""
        return attack_titles(self.specs)

    @property
    def comparison(self) -> Comparison | None:
        return compare(self.groups, self.specs)

    @property
    def curves(self) -> list[Curves]:
        return curves(self.findings.trained)

    @property
    def figures(self) -> list[Picture]:
        return figures(self.findings)

    @property
    def detections(self) -> list[Picture]:
        return detections(self.findings, self.specs)

    @property
    def tables(self) -> dict[str, Table]:
        """Every table by the name of its files; those not for comparison say so in it."""
        named = {paper.name: paper.table for paper in self.paper_tables if paper.table.has_ours}
        for one in self.groups:
            named[one.key] = one.average_precision(self.specs)
            each = one.each_checkpoint(self.specs)
            if each is not None:
                named[f"{one.key}_each_checkpoint"] = each
            named |= {
                f"{one.key}_per_class_{c.experiment}_{c.hash}": one.per_class(c, self.specs) for c in one.checkpoints
            }
        return named


def _retitled(table: Table, setting: str) -> Table:
    return replace(table, title=f"{table.title} ({setting})")


def write_tables(report: Report, folder: Path) -> list[Path]:
    """``<name>.md``, ``.tex`` and ``.csv`` of every table, and ``records.csv`` with a line a record."""
    texts = {f"{name}.{kind}": w(table) for name, table in report.tables.items() for kind, w in WRITERS.items()}
    texts["records.csv"] = records_csv(report.findings.evaluated)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def records_csv(evaluated: Sequence[Evaluated]) -> str:
    """Every number with its suite, protocol and all else that is needed to tell it from others; AP in [0, 1]."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for found in evaluated:
        record = found.record
        counts = vars(record.objects) if record.objects else {"objects": None}
        costs = {} if record.errors is None else vars(record.errors)
        costs |= {f"cost_{kind}": cost for kind, cost in costs.get("costs", {}).items()}
        taken = {} if record.confusion is None else vars(record.confusion)
        patch = {} if record.patch is None else {"hidden": record.patch.hidden, "visible_map": record.patch.map}
        fields = vars(record.run) | vars(record) | record.perturbation | taken | counts | costs | patch
        writer.writerow(fields | {"partial": record.partial, "flags": "; ".join(record.flags), "file": found.file})
    return text.getvalue()
