"""One table, four ways to write it: terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as RichTable

from robustdet.analysis.table import Cell, Table

ABSENT = "–"
LEGEND = "AP in percent: ours (paper's)"


def to_rich(table: Table) -> RichTable:
    below = escape("\n".join(_below(table)))
    rendered = RichTable(title=escape(table.title), caption=below, caption_justify="left", box=SIMPLE_HEAD)
    rendered.add_column("", no_wrap=True)
    for column in table.columns:  # on a narrow terminal the paper's number goes below ours
        rendered.add_column(escape(column), justify="right")
    for title, cells in table.rows:
        rendered.add_row(escape(title), *(_rich_cell(cell) for cell in cells))
    return rendered


def to_markdown(table: Table) -> str:
    def line(first: str, *others: str) -> str:
        return f"| {' | '.join(_escaped(text, '*_|') for text in (first, *others))} |"

    rows = [line(title, *(_cell_text(cell) for cell in cells)) for title, cells in table.rows]
    rule = f"|---{'|---:' * len(table.columns)}|"
    below = [_escaped(text, "*_") for text in _below(table)]
    return "\n".join([f"**{table.title}**", "", line("", *table.columns), rule, *rows, "", "  \n".join(below), ""])


def to_latex(table: Table) -> str:
    """A table for the booktabs package."""

    def line(first: str, *others: str) -> str:
        return f"{' & '.join(_latex(text) for text in (first, *others))} \\\\"

    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            line("", *table.columns),
            r"\midrule",
            *(line(title, *(_cell_text(cell) for cell in cells)) for title, cells in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {_latex(text)}" for text in _below(table)),
            r"\end{table}",
            "",
        ]
    )


def to_csv(table: Table) -> str:
    """One line a cell, at full precision: row, column, ours, spread, paper, notes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "ours", "spread", "paper", "notes"])
    for title, cells in table.rows:
        for column, cell in zip(table.columns, cells, strict=True):
            notes = "; ".join(table.footnotes[mark] for mark in cell.marks)
            writer.writerow([title, column, cell.ours, cell.spread, cell.paper, notes])
    return text.getvalue()


def _cell_text(cell: Cell) -> str:
    """``45.9 ± 0.4* (46.1)``: ours, its interval over seeds, marks, the paper's."""
    text = ABSENT if cell.ours is None else f"{cell.ours:.1f}"
    if cell.spread is not None:
        text += f" ± {cell.spread:.1f}"
    marks = ",".join(cell.marks)
    if marks:
        text += marks if marks.startswith("*") else f" [{marks}]"
    return text if cell.paper is None else f"{text} ({cell.paper:.1f})"


def _rich_cell(cell: Cell) -> str:
    ours, bracket, paper = _cell_text(cell).partition(" (")
    return f"{escape(ours)}[dim]{bracket}{paper}[/dim]"


def _below(table: Table) -> list[str]:
    """The lines under a table."""
    legend = [LEGEND] if table.has_paper else ["AP in percent"]
    marks = [f"{mark if '*' in mark else f'[{mark}]'} {text}" for mark, text in sorted(table.footnotes.items())]
    return [*legend, *marks, *table.notes]


def _escaped(text: str, special: str) -> str:
    return "".join("\\" + character if character in special else character for character in text)


def _latex(text: str) -> str:
    return (
        _escaped(text.replace("\\", "/"), "_%&#${}")
        .replace("±", r"$\pm$")
        .replace("–", "--")
        .replace("ε", r"$\varepsilon$")
        .replace("L∞", r"$L_\infty$")
    )
