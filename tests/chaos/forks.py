"""Commands in processes that begin with everything imported: a fork takes milliseconds, imports take seconds."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path


@dataclass
class Command:
    """A running `python -m src.<name> <overrides>`."""

    process: int
    output: Path

    def wait(self, limit: float = 120.0) -> int:
        """Its exit code as a shell says it. TimeoutError, and an end to it, after so many seconds."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            time.sleep(0.005)
        self.send(signal.SIGKILL)
        os.waitpid(self.process, 0)
        raise TimeoutError(f"it was still at work after {limit} s:\n{self.said}")

    def send(self, number: int) -> None:
        os.kill(self.process, number)

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")


def start(name: str, overrides: Sequence[str], output: Path, prepare: Callable[[], None] = lambda: None) -> Command:
    """``prepare`` runs in the new process before the command does."""
    main = import_module(f"robustdet.cli.{name}").main
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return Command(process, output)
    try:
        with output.open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        prepare()
        sys.argv = [name, *overrides]
        main()
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # before the command hears it: Python's own answer
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
