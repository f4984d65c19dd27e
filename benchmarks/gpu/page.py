"""The results of all parts as one page of Markdown, from what they have left in their folders."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import COMPARED
from benchmarks.gpu.running import LOG, Outcome

TABLE = "table.md"


def page(machine: str, outcomes: Sequence[Outcome]) -> str:
    """Begins with the machine; a section for each part."""
    sections = [f"Measured on: {machine}"]
    sections += [f"### {one.part.title}\n\n{one.said}.\n\n{results(one.part.folder)}" for one in outcomes]
    return "\n\n".join(sections) + "\n"


def results(folder: Path) -> str:
    """A part's table, as far as it came."""
    if (folder / COMPARED).is_file():
        return equality(folder)
    if (folder / TABLE).is_file():
        lines = (folder / TABLE).read_text(encoding="utf-8").strip().splitlines()
        return "\n".join(line for line in lines if not line.startswith("Measured on:")).strip()
    return f"Nothing was measured: {last_line(folder)}"


def last_line(folder: Path) -> str:
    log = folder / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "it said nothing"


def equality(folder: Path) -> str:
    """Comparisons by kind: how many, the worst of them, how far a wrong result is; then all that is not equal."""
    lines = [json.loads(line) for line in (folder / COMPARED).read_text(encoding="utf-8").splitlines()]
    compared = [line for line in lines if "observed" not in line]
    rows = ["| compared | number | unequal | largest difference | tolerance | a wrong result, at least |"]
    rows += ["|---|---:|---:|---:|---:|---:|"]
    rows += [row(kind, compared) for kind in dict.fromkeys(line["kind"] for line in compared)]
    rows += ["", *(f"- UNEQUAL: {line['trouble']}" for line in compared if line["trouble"])]
    rows += [f"- {line['kind']}, {line['name']}: {line['observed']}" for line in lines if "observed" in line]
    log = folder / LOG
    said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    rows += [f"- {line}" for line in said if re.match(r"(FAILED|ERROR) ", line)]
    rows += [f"- pytest: {line}" for line in said[-1:] if re.search(r"\d+ (passed|failed|error)", line)]
    return "\n".join(rows)


def row(kind: str, compared: Sequence[dict[str, Any]]) -> str:
    """The worst is nearest to its own tolerance."""
    of = [line for line in compared if line["kind"] == kind]
    worst = max(of, key=lambda line: line["difference"] / line["tolerance"])
    unequal, wrong = sum(1 for line in of if line["trouble"]), min(line["wrong"] for line in of)
    numbers = f"{worst['difference']:.1e} ({worst['name']}) | {worst['tolerance']:.0e} | {wrong:.1e}"
    return f"| {kind} | {len(of)} | {unequal} | {numbers} |"
