"""`python -m src.report`: everything below `outputs/` that was evaluated, on one page; and its tables as files."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from robustdet.analysis.report.content import Report, write_tables
from robustdet.analysis.report.findings import Findings, find, with_suites
from robustdet.analysis.report.page import render
from robustdet.cli.building import suites_of, table_specs
from robustdet.cli.composition import HOME
from robustdet.cli.launcher import launcher
from robustdet.errors import InputError
from robustdet.files import write_text

FLAGS = HOME / "docs" / "flags.md"
PAGES = (".html", ".htm")


def report(cfg: DictConfig) -> Path:
    """Writes `report.html` and `tables/` to `cfg.output`; says which records could not be read."""
    findings = find(cfg.folders)
    for damaged in findings.damaged:
        print(f"cannot be read, and is missing from the report: {damaged.file}: {damaged.reason}", file=sys.stderr)
    return written(findings, Path(cfg.output), cfg.title)


def written(findings: Findings, output: Path, title: str) -> Path:
    """The page of what was found. Raises InputError where ``output``, a folder, is called like a page."""
    if output.suffix in PAGES:
        raise InputError(f"output={output}: expected a folder. The page in it is called report.html")
    suites = suites_of(found.record for found in findings.evaluated)
    made = Report(with_suites(findings, suites), table_specs())
    tables = write_tables(made, output / "tables")
    page = output / "report.html"
    write_text(page, render(made, FLAGS.read_text(encoding="utf-8"), title))
    print(f"{len(findings.evaluated)} records. Page: {page}; tables: {len(tables)} files in {output / 'tables'}")
    return page


@launcher("report")
def main(cfg: DictConfig) -> None:
    report(cfg)
