"""Runs a part in a process group of its own, and ends it when its time is over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.parts import Part

ROOT = Path(__file__).resolve().parents[2]
GRACE = 5.0  # seconds between being told to stop and being stopped
LOG = "log.txt"


@dataclass(frozen=True)
class Outcome:
    """``code`` is what the command ended with, None where it was cut off."""

    part: Part
    seconds: float
    code: int | None

    @property
    def said(self) -> str:
        took = f"{self.seconds:.0f} s of at most {self.part.limit:.0f}"
        if self.code is None:
            return f"cut off after {took}: what was done until then"
        return took if self.code == 0 else f"{took}; it ended with {self.code}, see {self.part.name}/{LOG}"


def run(part: Part, environment: dict[str, str] | None = None) -> Outcome:
    """What it prints goes to its folder."""
    part.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with (part.folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "120", **(environment or {})},
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(part.limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            stop(process)
    return Outcome(part, time.monotonic() - start, code)


def stop(process: subprocess.Popen[bytes]) -> None:
    """The command and all that it has started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
            if sign == signal.SIGTERM:
                break
    with suppress(ProcessLookupError):  # children of a command that has ended
        os.killpg(process.pid, signal.SIGKILL)
