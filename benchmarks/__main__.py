"""`python -m benchmarks`: measures this machine, prints a table and saves it; see docs/performance.md."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import awareness, evaluation, executions, floor, foreign, levers, rows, scaling, steps, training
from benchmarks.machine import machine
from benchmarks.setting import Setting, settings
from robustdet.evaluation.environment import describe_environment
from robustdet.processor import fast_processor

Measure = Callable[[Setting], Iterable[rows.Row]]
MEASURED: dict[str, Measure] = {
    "steps": steps.measure,
    "foreign": foreign.measure,
    "executions": executions.measure,
    "awareness": awareness.measure,
    "training": training.measure,
    "memory": training.memory,
    "evaluation": evaluation.measure,
    "levers": levers.measure,
    "floor": floor.measure,
    "compile": levers.compiled,
}
PARTS = (*MEASURED, "scaling")
USUAL = tuple(part for part in PARTS if part != "compile")  # which takes minutes to start


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="the tiny model and small sizes: about a minute")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=USUAL, help="default: all but compile")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    for field in fields(Setting):
        if field.name != "device":
            kind = int if field.type == "int" else str
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help="default: by device")
    return parser.parse_args()


def chosen(args: argparse.Namespace) -> Setting:
    device = torch.device(args.device)
    values = settings(device, args.quick)
    given = {name: value for name in values if (value := getattr(args, name)) is not None}
    return Setting(device, **values | given)


def describe(setting: Setting) -> dict[str, Any]:
    environment = asdict(describe_environment(setting.device))
    sizes = asdict(setting) | {"device": str(setting.device)}
    return {"machine": machine(setting.device), "environment": environment, "sizes": sizes}


class Tables:
    """What was measured so far, written after every row: a run that is cut off leaves it."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.description, self.folder = describe(setting), folder
        self.rows: list[rows.Row] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, found: Iterable[rows.Row]) -> None:
        for row in found:
            self.rows.append(row)
            markdown = rows.to_markdown(self.rows, self.description["machine"])
            (self.folder / "table.md").write_text(markdown, encoding="utf-8")
            rows.write_json(self.rows, self.description, self.folder / "table.json")


def measure(setting: Setting, parts: Sequence[str], tables: Tables, console: Console) -> None:
    for part in parts:
        start = time.perf_counter()
        if part == "scaling":
            sweeps = scaling.measure(setting)
            tables.add(one.row() for one in sweeps)
            scaling.plot(sweeps, tables.description["machine"], tables.folder / "scaling.png")
        else:
            tables.add(MEASURED[part](setting))
        console.print(f"[dim]{part}: {time.perf_counter() - start:.0f} s[/dim]")
    tables.add(evaluation.feeding(tables.rows))


def main() -> None:
    args = arguments()
    fast_processor()  # as training and evaluation do
    setting, console = chosen(args), Console()
    tables = Tables(setting, args.output)
    console.print(f"Measuring {tables.description['machine']}; writing to {args.output}")
    measure(setting, args.only, tables, console)
    console.print(rows.to_rich(tables.rows, tables.description["machine"]))


if __name__ == "__main__":
    main()
