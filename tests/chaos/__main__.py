"""`python -m tests.chaos [--trials N] [--seed S]`: disturbs small commands, gives each again, compares what is left.

A trial fails where the disturbed command ends in another way than it should, or shows a traceback; where the same
command cannot go on from what it has left; or where the end is not, to the bit, that of an undisturbed one.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # threads do not outlive a fork

import torch

from robustdet.runs.run import ENDED
from tests.chaos.faults import CTRL_C, DISK, KILL, SAVING, TERM, TWICE, WORKER, Fault
from tests.chaos.jobs import Job, drawing, evaluating, training
from tests.forks import start

STAGE = 'warm_start.overrides=["data.batch_size=4","trainer.max_steps=4","trainer.val_check_interval=2"]'
FAULTS = {
    "training": [KILL, SAVING, TERM, CTRL_C, TWICE, DISK],
    "training, a worker": [KILL, CTRL_C, WORKER],
    "clean stage": [KILL, SAVING, CTRL_C],
    "evaluation": [KILL, SAVING, TERM, CTRL_C, DISK],
    "drawing data": [KILL, CTRL_C, DISK],
}
TRACEBACK = "Traceback (most recent call last)"


def undisturbed(job: Job, folder: Path) -> tuple[Any, float]:
    """Its result, and how many seconds it takes."""
    began = time.monotonic()
    command = start(job.command, job.overrides(folder), folder.with_suffix(".log"))
    if command.wait() != 0:
        sys.exit(f"undisturbed, it fails:\n{command.said}")
    return job.result(folder), time.monotonic() - began


class Jobs:
    """The jobs by where a fault strikes; what each comes to undisturbed is found out when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, data = folder, folder / "data"
        self.jobs = {
            "training": training("shapes_std", data),
            "training, a worker": training("shapes_std", data, "data.num_workers=1"),
            "clean stage": training("shapes_mtd_warm", data, STAGE),
            "evaluation": evaluating(folder / "training" / "run" / "checkpoints" / "final.ckpt"),
            "drawing data": drawing(),
        }
        self._references: dict[str, tuple[Any, float]] = {}

    def reference(self, where: str) -> tuple[Any, float]:
        if where == "evaluation":
            self.reference("training")
        if where not in self._references:
            self._references[where] = undisturbed(self.jobs[where], self.folder / where.replace(", ", "_"))
        return self._references[where]


def trial(job: Job, fault: Fault, result: Any, seconds: float, folder: Path, chance: random.Random) -> str | None:
    """What has failed; None where nothing has."""
    first = start(job.command, job.overrides(folder), folder.with_suffix(".1.log"), lambda: fault.prepare(chance))
    fault.strike(first, chance, seconds)
    code = first.wait()
    if code not in fault.codes or TRACEBACK in first.said:
        return f"exit code {code}:\n{first.said}"
    if code in fault.says and fault.says[code] not in first.said:
        return f"it does not say {fault.says[code]!r}:\n{first.said}"
    if code != 0 and not (folder / "run" / ENDED).is_file():  # what struck in the last update: the run has ended
        again = start(job.command, job.overrides(folder), folder.with_suffix(".2.log"))
        if (code := again.wait()) != 0:
            return f"given again, exit code {code}:\n{again.said}"
    found = job.result(folder)
    return None if found == result else f"the end is another one:\n{found}\ninstead of\n{result}"


def chaos(trials: int, seed: int) -> int:
    torch.set_num_threads(1)
    counts: Counter[tuple[str, str]] = Counter()
    struck: Counter[tuple[str, str]] = Counter()
    failures: dict[tuple[str, str], list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = Jobs(folder)
        cases = [(where, fault) for where, faults in FAULTS.items() for fault in faults]
        random.Random(seed).shuffle(cases)
        for number, (where, fault) in enumerate(islice(cycle(cases), trials)):
            place, chance = folder / f"trial{number}", random.Random(f"{seed} {number}")
            counts[fault.name, where] += 1
            failed = trial(jobs.jobs[where], fault, *jobs.reference(where), place, chance)
            struck[fault.name, where] += place.with_suffix(".2.log").is_file()
            if failed is not None:
                failures.setdefault((fault.name, where), []).append(f"trial {number}: {failed}")
                print(f"{fault.name}, {where}, trial {number}: {failed}", flush=True)
            shutil.rmtree(place, ignore_errors=True)
    print(f"{'fault':22s}{'where':20s}{'trials':>8s}{'stopped':>9s}{'failures':>10s}")
    for key in sorted(counts, key=lambda key: (key[1], key[0])):
        print(f"{key[0]:22s}{key[1]:20s}{counts[key]:8d}{struck[key]:9d}{len(failures.get(key, [])):10d}")
    total = sum(map(len, failures.values()))
    print(f"{'all':42s}{counts.total():8d}{struck.total():9d}{total:10d}")
    return int(total > 0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    sys.exit(chaos(chosen.trials, chosen.seed))


if __name__ == "__main__":
    main()
