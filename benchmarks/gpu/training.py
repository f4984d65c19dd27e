"""`python -m benchmarks.gpu.training`: the four rows of a study, cut down, each from the clean one: speed and AP."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from benchmarks.gpu.page import TABLE
from robustdet.cli.composition import CONF, composed
from robustdet.cli.train import train
from robustdet.runs.run import Run

ROWS = ("std", "mtd_warm", "robustdet", "cfr")
UPDATES = {"full": (1000, 600), "quick": (200, 100), "least": (2, 0)}  # of the first row, of the others; 0: left out
OF_PHOTOGRAPHS = {"full": (200, 150), "quick": (60, 30), "least": (2, 0)}
FEW = ["data.source.train=24", "data.source.val=7", "data.source.test=7", "data.batch_size=4"]


@dataclass(frozen=True)
class Trained:
    """A row: seconds with everything, AP on the validation split as fractions; ``trouble`` where it failed."""

    name: str
    updates: int
    seconds: float
    clean: float | None = None
    attacked: float | None = None
    peak: float | None = None  # GiB of a GPU
    trouble: str = ""

    def cells(self) -> list[str]:
        percent = ["" if value is None else f"{100 * value:.1f}" for value in (self.clean, self.attacked)]
        peak = "" if self.peak is None else f"{self.peak:.1f}"
        each = f"{1000 * self.seconds / self.updates:.0f}"
        return [self.name, str(self.updates), f"{self.seconds:.0f}", each, *percent, peak, self.trouble]


HEADS = (
    "trained",
    "updates",
    "s",
    "ms an update, with validation",
    "clean AP, %",
    "attacked AP, %",
    "peak GiB",
    "",
)


def markdown(trained: Sequence[Trained]) -> str:
    lines = [f"| {' | '.join(HEADS)} |", "|---|" + "---:|" * (len(HEADS) - 2) + "---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in trained)]) + "\n"


def study_of(data: Path | None) -> str:
    """Shapes; of a VOC the study of photographs whose name comes last, which has the larger ones."""
    return "shapes" if data is None else sorted(file.stem for file in (CONF / "study").glob("photos*.yaml"))[-1]


def told(args: argparse.Namespace, name: str, updates: int) -> list[str]:
    """Overrides of a row."""
    study: Any = OmegaConf.load(CONF / "study" / f"{study_of(args.data)}.yaml")
    run = args.output / "runs" / name
    common = [f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", f"paths.run='{run}'"]
    common += [f"paths.outputs='{args.output / 'runs'}'", f"trainer.max_steps={updates}"]
    common += [f"trainer.val_check_interval={updates}", "callbacks=none", "+trainer.enable_progress_bar=false"]
    place = f"paths.data='{args.output / 'data'}'" if args.data is None else f"data.root='{args.data.absolute()}'"
    clean = args.output / "runs" / ROWS[0]
    start = [] if name == ROWS[0] else [f"warm_start.ckpt_path='{Run(clean).final}'"]
    return [
        *study.trainings[name].overrides,
        *common,
        place,
        *start,
        *(FEW if args.size == "least" else []),
        *args.more,
    ]


def one(args: argparse.Namespace, name: str, updates: int) -> Trained:
    on_gpu = args.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        cfg = composed("train", told(args, name, updates))
        train(cfg)
    except Exception as error:  # a row that fails is a result, and the others go on
        return Trained(name, updates, time.perf_counter() - start, trouble=f"{type(error).__name__}: {error}"[:300])
    seconds = time.perf_counter() - start
    with (Path(cfg.paths.run) / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/AP50_clean")]
    clean, attacked = (float(rows[-1][f"val/AP50_{kind}"]) for kind in ("clean", "attacked"))
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    return Trained(name, updates, seconds, clean, attacked, peak)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.training", description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--size", choices=UPDATES, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("more", nargs="*", help="overrides for every row")
    args = parser.parse_args()
    args.output = args.output.absolute()
    args.output.mkdir(parents=True, exist_ok=True)
    first, others = (UPDATES if args.data is None else OF_PHOTOGRAPHS)[args.size]
    trained: list[Trained] = []
    for name in ROWS:
        if updates := first if name == ROWS[0] else others:
            trained.append(one(args, name, updates))
            (args.output / TABLE).write_text(markdown(trained), encoding="utf-8")
            rows = json.dumps([asdict(row) for row in trained], indent=1)
            (args.output / "table.json").write_text(rows + "\n", encoding="utf-8")
    if failed := [row.name for row in trained if row.trouble]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
