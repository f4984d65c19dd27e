"""One measured line, and the ways to show many: terminal, Markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """``value`` in ``unit`` ("x" for ratios, "%", "s", "images/s", "GiB"); None where nothing was measured.

    ``bound`` is what the value should stay below (``at_least``: above), within its ``noise`` where that is known;
    ``seconds`` are the medians behind it.
    """

    part: str
    title: str
    value: float | None
    unit: str = "x"
    bound: float | None = None
    at_least: bool = False
    note: str = ""
    noise: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.value is None or self.bound is None:
            return ""
        beyond = self.bound - self.value if self.at_least else self.value - self.bound
        met = beyond <= self.noise
        return "met" if met else "missed"

    def cells(self) -> list[str]:
        noise = f" ± {self.noise:.1g}" if self.noise else ""
        value = NOT_MEASURED if self.value is None else f"{self.value:.3g}{noise} {self.unit}"
        bound = "" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound:g}"
        return [self.part, self.title, value, bound, self.verdict, self.note]


HEADS = ("part", "measured", "value", "bound", "", "")


def to_rich(rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for head in HEADS:
        table.add_column(head, justify="right" if head in ("value", "bound") else "left")
    for row in rows:
        table.add_row(*row.cells(), style="yellow" if row.verdict == "missed" else None)
    return table


def to_markdown(rows: Sequence[Row], machine: str) -> str:
    lines = [f"Measured on: {machine}", "", f"| {' | '.join(HEADS)} |", "|---|---|---:|---:|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in rows)]) + "\n"


def write_json(rows: Sequence[Row], description: dict[str, Any], path: Path) -> None:
    content = {**description, "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
