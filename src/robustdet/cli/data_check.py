"""`data.check=true`: everything that is wrong with a data set, as a table in the terminal and as a file of the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustdet.cli.instantiating import instantiate
from robustdet.data.problems import Problem
from robustdet.errors import InputError
from robustdet.files import write_text

FILE = "data_problems.json"
ROWS = 200  # of the table; the file has all


def check_data(cfg: DictConfig, folder: Path) -> None:
    """Lists all problems of ``cfg.data`` and writes them to ``folder``, where ``data.check`` asks for it.

    Raises InputError where there are any beside notices, unless ``data.on_problem`` is skip.
    """
    if not cfg.data.get("check"):  # a run of an earlier version has no such setting
        return
    data = instantiate(cfg.data)
    found = data.problems()
    file = folder / FILE
    write_text(file, json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False) + "\n")
    if not len(found):
        print(f"{data.name}: no problem in any split ({file})")
        return
    Console().print(as_table([*found.faults, *(one for one in found if one.notice)], Path(cfg.data.root).expanduser()))
    text = f"{data.name}: {len(found.faults)} problems, {len(found) - len(found.faults)} notices; all are in {file}"
    if found.faults and data.on_problem == "error":
        raise InputError(text)
    print(text)


def as_table(problems: Sequence[Problem], root: Path) -> Table:
    """The first `ROWS`, files as they are called within ``root``."""
    table = Table("file", "where", "found", "expected", title=f"Problems of the data in {root}", caption_justify="left")
    for one in problems[:ROWS]:
        name = Path(one.file).relative_to(root) if Path(one.file).is_relative_to(root) else one.file
        found = f"{one.field}: {one.value}" if one.field else one.value
        expected = f"{one.expected} (notice)" if one.notice else one.expected
        # texts of a file are no markup of ours
        table.add_row(*(Text(cell, overflow="fold") for cell in (str(name), one.record, found, expected)))
    if len(problems) > ROWS:
        table.caption = f"… and {len(problems) - ROWS} more"
    return table
