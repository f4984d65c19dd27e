"""The pictures of a page, under a title that says whose they are and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustdet.analysis.report.findings import Findings
from robustdet.analysis.report.groups import CLEAN
from robustdet.analysis.table import TableSpec, attack_titles
from robustdet.evaluation.worst_case import WORST_CASE


@dataclass(frozen=True)
class Picture:
    title: str
    file: Path


def detections(findings: Findings, specs: Sequence[TableSpec]) -> list[Picture]:
    """The pictures beside records: the experiment, the attacks, the suite."""
    titles = attack_titles(specs)
    made = []
    for file in findings.pictures:
        beside = [found.record for found in findings.evaluated if found.file.parents[1] == file.parent]
        experiments = ", ".join(dict.fromkeys(record.run.experiment for record in beside))
        attacks = {record.attack for record in beside} - {CLEAN, WORST_CASE}
        ordered = [titles[attack] for attack in titles if attack in attacks] + sorted(attacks - set(titles))
        made.append(
            Picture(f"{experiments}: clean and under {', '.join(ordered) or 'attack'} ({file.parent.name})", file)
        )
    return made


def figures(findings: Findings) -> list[Picture]:
    """Those of analyses: the experiment in whose run's folder they are, and what was analysed."""
    runs = {found.run: found.record.run.experiment for found in findings.evaluated}
    runs |= {run.folder.absolute(): run.experiment for run in findings.trained}
    made = []
    for file in findings.figures:
        about = file.stem.replace("_", " ")
        experiment = next((runs[folder] for folder in file.absolute().parents if folder in runs), None)
        made.append(Picture(about if experiment is None else f"{experiment}: {about}", file))
    return made
