"""Tables inside Markdown pages, made again from records.

A page says where a table stands and what it is of:

    <!-- table shapes suite=strongest columns=clean,worst_case of results/shapes -->
    (the table)
    <!-- end of table -->

``shapes`` is a table of `conf/table`. ``suite=…`` and ``columns=…`` replace its own: the same rows, measured otherwise.
Several folders have a comma between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustdet.analysis.rendering import to_markdown
from robustdet.analysis.report.findings import find
from robustdet.analysis.suite_settings import with_differences
from robustdet.analysis.table import TableSpec, attack_titles, fill
from robustdet.errors import InputError
from robustdet.evaluation.record import Record

BEGIN = re.compile(r"<!-- table (?P<name>[\w-]+)(?P<options>(?: \w+=\S+)*) of (?P<folder>\S+) -->")
END = "<!-- end of table -->"
TABLE = re.compile(rf"(?P<begin>{BEGIN.pattern})\n.*?{END}", re.DOTALL)
OPTIONS = ("suite", "columns")

Suites = Callable[[Sequence[Record]], Mapping[tuple[str, str], Mapping[str, Any]]]


def rewritten(page: Path, root: Path, specs: Sequence[TableSpec], suites: Suites) -> str:
    """The page's text with every table in it as its records say now. Folders are below ``root``.

    ``suites`` says what suites mean, by whose records they are (`with_differences`). Raises InputError naming page and
    table where one has no end, is not known, has an option that is none, a record that cannot be read, or no row.
    """
    text = page.read_text(encoding="utf-8")
    if len(BEGIN.findall(text)) != len(TABLE.findall(text)) or text.count(END) != len(TABLE.findall(text)):
        raise InputError(f"{page}: {len(BEGIN.findall(text))} tables begin and {text.count(END)} end ({END})")

    def table(mark: re.Match[str]) -> str:
        where = f"{page}: table {mark['name']}"
        spec = _spec(mark["name"], mark["options"].split(), specs, where)
        found = find([root / folder for folder in mark["folder"].split(",")])
        if found.damaged:
            raise InputError(f"{where}: {found.damaged[0].file} cannot be read: {found.damaged[0].reason}")
        records = [one.record for one in found.evaluated]
        made = fill(spec, with_differences(records, suites(records)))
        if not made.has_ours:
            raise InputError(f"{where}: no record below {mark['folder']} is of suite {spec.suite}, {spec.rule} AP")
        return f"{mark['begin']}\n{to_markdown(made)}{END}"

    return TABLE.sub(table, text)


def _spec(name: str, options: Sequence[str], specs: Sequence[TableSpec], where: str) -> TableSpec:
    known = {spec.name: spec for spec in specs}
    if name not in known:
        raise InputError(f"{where}: there is none of that name; expected one of {', '.join(known)}")
    spec, titles = known[name], attack_titles(specs)
    for option in options:
        key, _, value = option.partition("=")
        if key not in OPTIONS:
            raise InputError(f"{where}: {option} is no option; expected {' or '.join(f'{one}=…' for one in OPTIONS)}")
        if key == "suite":
            spec = replace(spec, suite=value, title=f"{spec.title}, suite={value}")
        else:
            columns = {attack: titles.get(attack, attack) for attack in value.split(",")}
            spec = replace(spec, columns=columns, rows=[replace(row, paper=()) for row in spec.rows])
    return spec
