"""The page that explains flags (docs/flags.md), taken apart so that each flag of a record finds its explanation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from markdown_it import MarkdownIt
from markupsafe import Markup

HEADER = "flag"  # of the first column of a table whose rows explain a flag each
PARSER = MarkdownIt("commonmark", {"html": False})


@dataclass(frozen=True)
class Explanation:
    """A row of such a table: the flag, and what the other columns say of it by their header."""

    name: str
    parts: dict[str, Markup]


def flag_of(text: str) -> tuple[str, str]:
    """A flag "name: sentence" as name and ": sentence"; ("", text) for any other text."""
    name, colon, rest = text.partition(":")
    return (name, colon + rest) if colon and re.fullmatch(r"[a-z0-9_]+", name) else ("", text)


def explanations(markdown: str) -> list[Markup | Explanation]:
    """Prose as HTML, its headings one level down and its title left out, and explanations, in the page's order."""
    blocks: list[Markup | Explanation] = []
    for is_table, lines in groupby(markdown.splitlines(), lambda line: line.startswith("|")):
        if is_table:
            blocks += _rows(list(lines))
        else:
            prose = re.sub(r"^#", "##", re.sub(r"^# .*$", "", "\n".join(lines), flags=re.M), flags=re.M)
            blocks.append(Markup(PARSER.render(prose)))
    return blocks


def _rows(lines: list[str]) -> Iterator[Markup | Explanation]:
    header = _cells(lines[0])
    if header[0] != HEADER:
        yield Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render("\n".join(lines)))
        return
    for line in lines[2:]:
        name, *parts = _cells(line)
        texts = [Markup(PARSER.renderInline(part)) for part in parts]
        yield Explanation(name.strip("`"), dict(zip(header[1:], texts, strict=True)))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
