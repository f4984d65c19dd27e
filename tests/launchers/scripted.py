"""A command for tests of studies: does what its argument `does=` says, and writes down that it was called."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    folder = Path(given.get("hydra.run.dir") or given["paths.run"])
    with (folder / "called.txt").open("a", encoding="utf-8") as file:
        file.write(" ".join(sys.argv[1:]) + "\n")
    print("working", os.environ["OMP_NUM_THREADS"])
    if given.get("does") == "fails":
        print("no room left")
        sys.exit(3)
    if given.get("does") == "waits":
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
        (folder / "ready").touch()
        time.sleep(60)
