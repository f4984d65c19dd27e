"""What a proof of a GPU is made of: parts with a time limit each, and how long they may take in all."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

COMPARED = "compared.jsonl"  # of tests/gpu
Size = Literal["full", "quick", "least"]
OF_FULL_SIZE = (
    "steps",
    "executions",
    "layers",
    "speed",
    "awareness",
    "training",
    "evaluation",
    "levers",
    "floor",
    "scaling",
)
LIMITS: dict[Size, dict[str, float]] = {  # seconds; all of full are within 10 minutes, all of quick within 4
    "full": {"equal": 190, "speed": 130, "memory": 40, "training": 130, "compile": 100},
    "quick": {"equal": 80, "speed": 70, "memory": 25, "training": 60},
    "least": {"equal": 60, "speed": 30, "training": 30},
}

# Of tests/gpu, by pytest's -k: those that stand for the others
QUICK_TESTS = (
    "(test_networks and not full_size and (tiny or mobilenet_ssd)) or test_metrics or bf16 or resumed or two_processes"
    " or (test_attacks and (pgd or mtd or cwa or dag or square or aid_fool))"
    " or (golden and (std or cfr))"
)
LEAST_TESTS = "(says_what_the_cpu_says and tiny_ssd) or (test_attacks and fgsm)"


@dataclass(frozen=True)
class Part:
    """A command that writes its results into ``folder`` as it goes, and is stopped after ``limit`` seconds."""

    name: str
    title: str
    command: tuple[str, ...]
    folder: Path
    limit: float


def parts(size: Size, device: str, output: Path, data: Path | None, overrides: list[str]) -> list[Part]:
    """All of this size, the most telling first."""

    def benchmark(name: str, *words: str) -> list[str]:
        place = ["--output", str(output / name), "--device", device]
        return ["benchmarks", *place, *sizes(size, device), "--only", *words]

    chosen = {"full": [], "quick": ["-k", QUICK_TESTS], "least": ["-k", LEAST_TESTS]}[size]
    compared = ("networks", "attacks") if size == "least" else ("networks", "metrics", "training", "attacks")
    files = [f"tests/gpu/test_{name}.py" for name in compared]
    tests = ["pytest", *files, "--on", device, "--quiet", "-p", "no:cacheprovider", "-W", "default", *chosen]
    training = ["benchmarks.gpu.training", "--output", str(output / "training"), "--device", device, "--size", size]
    commands = {
        "equal": ("Equal to the CPU", [*tests, "--compared", str(output / "equal" / COMPARED)]),
        "speed": ("Speed", benchmark("speed", *measured(size))),
        "memory": ("Memory", benchmark("memory", "memory")),
        "training": ("A short training", [*training, *(["--data", str(data)] if data else []), *overrides]),
        "compile": ("torch.compile", benchmark("compile", "compile")),
    }
    limits = LIMITS[size]
    return [
        Part(name, title, (sys.executable, "-m", *command), output / name, limits[name])
        for name, (title, command) in commands.items()
        if name in limits
    ]


def measured(size: Size) -> tuple[str, ...]:
    """Parts of the benchmark."""
    few = {"quick": ("steps", "executions", "training", "floor"), "least": ("executions",)}
    return OF_FULL_SIZE if size == "full" else few[size]


def sizes(size: Size, device: str) -> list[str]:
    """The benchmark's own sizes would take an hour's quarter by themselves."""
    if device == "cpu":
        return ["--quick", *(["--repeats", "1", "--aa-batch", "2"] if size == "least" else [])]
    return ["--repeats", "3", "--steps", "5", "--ap-images", "1000"]
