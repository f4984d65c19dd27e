"""Commands in processes that begin with everything imported: a fork takes milliseconds, imports take seconds.

`python -m tests.forks` is a process that has imported every command and nothing of pytest. It forks on demand: see
`Spawner`, which tests ask.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.composing import compose_quickly

ROOT = Path(__file__).parents[1]
COMMANDS = ("train", "evaluate", "analyze", "predict", "export", "report", "study")


@dataclass
class Command:
    """A running `python -m src.<name> <overrides>`, a child of this process."""

    process: int
    output: Path

    def poll(self) -> int | None:
        """Its exit code as a shell says it, or None."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        if not done:
            return None
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def wait(self, limit: float = 120.0) -> int:
        """Its exit code. TimeoutError, and an end to it, after so many seconds."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if (code := self.poll()) is not None:
                return code
            time.sleep(0.005)
        self.send(signal.SIGKILL)
        os.waitpid(self.process, 0)
        raise TimeoutError(f"it was still at work after {limit} s:\n{self.said}")

    def send(self, number: int) -> None:
        os.kill(self.process, number)

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")


def start(
    name: str,
    overrides: Sequence[str],
    output: Path,
    prepare: Callable[[], None] = lambda: None,
    errors: Path | None = None,
) -> Command:
    """Appends what it prints to ``output``, its standard error to ``errors`` where that is given.

    ``prepare`` runs in the new process before the command does.
    """
    import_module(f"robustdet.cli.{name}")
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return Command(process, output)
    try:
        for file, descriptor in ((output, 1), (errors or output, 2)):
            with file.open("ab", buffering=0) as log:
                os.dup2(log.fileno(), descriptor)
        prepare()
        sys.argv = [name, *overrides]
        runpy.run_module(f"src.{name}", run_name="__main__", alter_sys=True)
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


@dataclass
class Spawned:
    """A command that the spawner has started for a test, in files under ``folder``."""

    spawner: Spawner
    process: int
    folder: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code as a shell says it, or None."""
        if self.code is None:
            self.code = self.spawner.ask(poll=self.process)
        return self.code

    def wait(self, limit: float = 1200.0) -> int:
        """Its exit code. TimeoutError, and an end to it, after so many seconds."""
        end = time.monotonic() + limit
        while self.poll() is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"it was still at work after {limit} s:\n{self.said}")
            time.sleep(0.01)
        return self.code or 0

    def send(self, number: int) -> None:
        os.kill(self.process, number)

    @property
    def said(self) -> str:
        return (self.folder / "stdout").read_text(encoding="utf-8", errors="replace")

    @property
    def warned(self) -> str:
        """Its standard error."""
        return (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")


class Spawner:
    """The process that has everything imported, begun with the first command that is asked of it."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[str] | None = None

    def ask(self, **question: Any) -> Any:
        if self.server is None:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "tests.forks"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            atexit.register(self.server.kill)
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, name: str, overrides: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Spawned:
        """`python -m src.<name> <overrides>` in the repository; ``folder`` has its output."""
        process = self.ask(start=name, overrides=[*overrides], folder=str(folder), environment={**environment})
        return Spawned(self, process, folder)


def serve() -> None:
    """Answer questions from standard input, a line each: start a command, or say whether one has ended."""
    for name in (*COMMANDS, "train_objects"):
        import_module(f"robustdet.cli.{name}")
    compose_quickly()
    composed = import_module("robustdet.cli.composition").composed
    for root, field in (("train", "paths.run=run"), ("evaluate", "suite=quick")):
        composed(root, ["experiment=shapes_cfr", field])  # forks find most files parsed
    gc.freeze()  # what was imported is never collected, nor copied for that
    running: dict[int, Command] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "poll" in question:
            answer = running[question["poll"]].poll()
        else:
            folder, environment = Path(question["folder"]), question["environment"]

            def prepare(environment: Mapping[str, str] = environment) -> None:
                with open(os.devnull, "rb") as nothing:
                    os.dup2(nothing.fileno(), 0)
                os.environ.update(environment)
                sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))

            command = start(
                question["start"], question["overrides"], folder / "stdout", prepare, errors=folder / "stderr"
            )
            running[command.process] = command
            answer = command.process
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
