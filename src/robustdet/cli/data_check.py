"""`data.check=true`: everything that is wrong with a data set, as a table in the terminal and as a file of the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from robustdet.data.problems import Problem
from robustdet.errors import InputError

FILE = "data_problems.json"


def check_data(cfg: DictConfig, folder: Path) -> None:
    """Lists all problems of ``cfg.data`` and writes them to ``folder``, where ``data.check`` asks for it.

    Raises InputError where there are any beside notices, unless ``data.on_problem`` is skip.
    """
    if not cfg.data.get("check"):  # a run of an earlier version has no such setting
        return
    data = instantiate(cfg.data)
    found = data.problems()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    file.write_text(json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not len(found):
        print(f"{data.name}: no problem in any split ({file})")
        return
    Console().print(as_table(list(found)))
    text = f"{data.name}: {len(found.faults)} problems, {len(found) - len(found.faults)} notices; all are in {file}"
    if found.faults and data.on_problem == "error":
        raise InputError(text)
    print(text)


def as_table(problems: Sequence[Problem]) -> Table:
    table = Table("file", "where", "found", "expected", "", title="Problems of the data")
    for one in problems:
        found = f"{one.field}: {one.value}" if one.field else one.value
        # texts of a file are no markup of ours
        cells = (one.file, one.record, found, one.expected, "notice" if one.notice else "")
        table.add_row(*(cell.replace("[", r"\[") for cell in cells), style="dim" if one.notice else None)
    return table
