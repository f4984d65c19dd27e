"""`python -m benchmarks`: measures this machine, prints a table and saves it; see docs/performance.md."""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import awareness, evaluation, executions, levers, rows, scaling, steps, training
from benchmarks.setting import Setting, settings
from robustdet.evaluation.environment import describe_environment
from robustdet.processor import fast_processor

MEASURED: dict[str, Any] = {
    "steps": steps, "executions": executions, "awareness": awareness, "training": training, "evaluation": evaluation,
}  # fmt: skip
PARTS = ("steps", "executions", "awareness", "training", "evaluation", "levers", "scaling")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="the tiny model and small sizes: about a minute")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these parts")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes to start")
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


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def measure(setting: Setting, parts: tuple[str, ...], compiled: bool, console: Console) -> tuple[list[rows.Row], list]:
    found: list[rows.Row] = []
    sweeps: list[scaling.Sweep] = []
    for part in parts:
        start = time.perf_counter()
        if part == "scaling":
            sweeps = scaling.measure(setting)
            found += [one.row() for one in sweeps]
        elif part == "levers":
            found += levers.measure(setting, compiled)
        else:
            found += MEASURED[part].measure(setting)
        console.print(f"[dim]{part}: {time.perf_counter() - start:.0f} s[/dim]")
    return found, sweeps


def main() -> None:
    args = arguments()
    fast_processor()  # as training and evaluation do
    setting, console = chosen(args), Console()
    description = describe(setting)
    console.print(f"Measuring {description['machine']}; writing to {args.output}")
    found, sweeps = measure(setting, tuple(args.only), args.compile, console)
    args.output.mkdir(parents=True, exist_ok=True)
    console.print(rows.to_rich(found, description["machine"]))
    (args.output / "table.md").write_text(rows.to_markdown(found, description["machine"]), encoding="utf-8")
    rows.write_json(found, description, args.output / "table.json")
    if sweeps:
        scaling.plot(sweeps, description["machine"], args.output / "scaling.png")


if __name__ == "__main__":
    main()
