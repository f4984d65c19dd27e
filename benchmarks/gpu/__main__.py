"""`python -m benchmarks.gpu` (`make gpu`): proves a GPU in ten minutes, or four with --quick; see docs/gpu.md."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu.page import page, results
from benchmarks.gpu.parts import parts
from benchmarks.gpu.running import LOG, Outcome, run
from benchmarks.machine import machine

NO_GPU = (
    "No GPU: torch {version} sees none here. On a machine that has one the same command proves it; "
    "`python -m benchmarks.gpu --device cpu --quick` runs the whole script on this CPU."
)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", default="full")
    parser.add_argument("--least", dest="size", action="store_const", const="least", help="a sign of life, for tests")
    parser.add_argument("--only", nargs="+", help="these parts: equal speed memory training compile")
    parser.add_argument("--data", type=Path, help="a VOC to train on instead of drawn shapes")
    parser.add_argument("--patience", type=float, default=1.0, help="times the limits: for a slow machine")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("overrides", nargs="*", help="for the trainings, such as model.weights=FILE")
    return parser.parse_args(given)


def prove(args: argparse.Namespace) -> list[Outcome]:
    """Runs all parts, says each result at once, and writes the page after every one."""
    device, output = torch.device(args.device), args.output.absolute()
    chosen = parts(args.size, args.device, output, args.data, args.overrides)
    if args.only:
        if unknown := set(args.only) - {part.name for part in chosen}:
            sys.exit(f"--only {' '.join(sorted(unknown))}: expected {' '.join(part.name for part in chosen)}")
        chosen = [part for part in chosen if part.name in args.only]
    chosen = [replace(part, limit=args.patience * part.limit) for part in chosen]
    output.mkdir(parents=True, exist_ok=True)
    print(
        f"{machine(device)}: at most {sum(part.limit for part in chosen):.0f} s; writing to {args.output}", flush=True
    )
    outcomes: list[Outcome] = []
    for part in chosen:
        if (part.folder / LOG).is_file():  # of an earlier proof, and nobody else's
            shutil.rmtree(part.folder)
        start = time.monotonic()
        try:
            outcomes.append(run(part))
        except (KeyboardInterrupt, SystemExit):  # a borrowed machine is wanted back
            outcomes.append(Outcome(part, time.monotonic() - start, None))
            raise
        finally:
            (output / "page.md").write_text(page(machine(device), outcomes), encoding="utf-8")
        print(f"\n{part.title}: {outcomes[-1].said}\n{results(part.folder)}", flush=True)
    return outcomes


def main() -> None:
    args, start = arguments(), time.monotonic()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit(NO_GPU.format(version=torch.__version__))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that parts end with this
    outcomes = prove(args)
    bad = [one.part.name for one in outcomes if one.code != 0]
    print(f"\n{time.monotonic() - start:.0f} s in all; the whole page: {args.output / 'page.md'}")
    if bad:
        sys.exit(f"Cut off or failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
