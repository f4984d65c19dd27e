"""A run: the folder of one training, with what it was told, what it has made so far, and a lock while it works.

config.yaml        all settings, resolved
checkpoints/       the newest states, and final.ckpt at the end
unfinished.json    the mark of a run that has begun and not ended; gone when it has
run.json           the mark of a run that has ended, and how
.lock              held by the process that works on it
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from robustdet.errors import InputError, MissingFileError, StateError
from robustdet.files import UNFINISHED, write_text

CONFIG, ENDED, BEGUN, LOCK = "config.yaml", "run.json", "unfinished.json", ".lock"
FIELDS = {ENDED: ("experiment", "checkpoint"), BEGUN: ("experiment",)}  # texts; older versions knew no identity


class RunAtWorkError(StateError):
    """Another process works in the folder of this run."""


@dataclass(frozen=True)
class Run:
    """The run in ``folder``, which need not exist yet."""

    folder: Path

    @classmethod
    def around(cls, checkpoint: str | Path) -> Run | None:
        """The run that wrote this file; None where it does not lie in a run's ``checkpoints``."""
        path = Path(checkpoint).resolve()
        run = cls(path.parent.parent)
        return run if path.parent.name == run.checkpoints.name and (run.folder / CONFIG).is_file() else None

    @classmethod
    def below(cls, outputs: str | Path, mark: str = ENDED) -> Iterator[Run]:
        """Runs under ``outputs`` with this mark, the newest first; what nobody can read is passed over with a word."""
        files = sorted(Path(outputs).glob(f"**/{mark}"), key=_changed, reverse=True)
        for file in files:
            run = cls(file.parent)
            if run._mark(mark) is not None:
                yield run

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def final(self) -> Path:
        """Where the state it ends with is written."""
        return self.checkpoints / "final.ckpt"

    @property
    def config(self) -> dict[str, Any]:
        """All its settings as plain data. Raises ValueError that names the file where it holds none."""
        file = self.folder / CONFIG
        try:
            settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{file} cannot be read, which says what this run was told: {error}") from error
        if not isinstance(settings, dict) or "model" not in settings:
            raise InputError(f"{file} is no config of a run: it says nothing of a model")
        return settings

    @property
    def ended(self) -> dict[str, Any] | None:
        """How it ended; None when it has not, or is none of ours."""
        return self._mark(ENDED)

    @property
    def begun(self) -> dict[str, Any] | None:
        """What has begun here and not ended; None when nothing has."""
        return self._mark(BEGUN)

    @property
    def result(self) -> Path | None:
        """The checkpoint that it ended with."""
        ended = self.ended
        path = self.folder / ended["checkpoint"] if ended else None
        return path if path is not None and path.is_file() else None

    @property
    def is_complete(self) -> bool:
        """Whether it made all its updates from its own start: what may stand for this experiment."""
        ended = self.ended
        return ended is not None and ended.get("incomplete") is None

    def ended_with(self, checkpoint: str | Path) -> bool:
        """Whether this file is its result, not an earlier state or anyone else's."""
        return self.result is not None and self.result.resolve() == Path(checkpoint).resolve()

    @property
    def newest_checkpoint(self) -> Path | None:
        """Complete ones only: Lightning renames a checkpoint into place when all of it is written."""
        return max(self.checkpoints.glob("*.ckpt"), key=_changed, default=None)

    def is_unfinished(self, identity: str) -> bool:
        begun = self.begun
        return begun is not None and begun.get("identity") == identity

    def begin(self, mark: Mapping[str, Any], config: str) -> None:
        """Leave the mark of a run that works, and its settings as YAML; what a killed process was writing here goes."""
        for file in self.folder.rglob(f"*.{UNFINISHED}"):
            file.unlink(missing_ok=True)
        write_text(self.folder / BEGUN, json.dumps(mark, indent=2) + "\n")
        write_text(self.folder / CONFIG, config)

    def end(self, mark: Mapping[str, Any]) -> None:
        """Leave the mark of a run that has ended."""
        write_text(self.folder / ENDED, json.dumps(mark, indent=2) + "\n")
        (self.folder / BEGUN).unlink(missing_ok=True)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Held while a process works on this run; freed when it dies.

        Raises RunAtWorkError where another holds it, PermissionError where nobody may write.
        """
        who = self.folder / f"{LOCK}.json"
        lock = FileLock(self.folder / LOCK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except PermissionError as error:
            raise PermissionError(
                f"{self.folder}, this run's folder, cannot be written to: choose another paths.outputs or paths.run"
            ) from error
        except Timeout:
            raise RunAtWorkError(
                f"{self.folder} is the folder of a run that is at work{_holder(who)}: wait for its end, or stop it"
            ) from None
        try:
            write_text(who, json.dumps({"host": socket.gethostname(), "process": os.getpid()}) + "\n")
            yield
        finally:
            who.unlink(missing_ok=True)
            lock.release()

    def _mark(self, name: str) -> dict[str, Any] | None:
        file = self.folder / name
        if not file.is_file():
            return None
        try:
            mark = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            warnings.warn(f"{file} cannot be read, and is passed over: {error}", stacklevel=2)
            return None
        missing = [
            field for field in FIELDS[name] if not isinstance(mark, dict) or not isinstance(mark.get(field), str)
        ]
        if missing:
            text = f"{file} is no mark of a run, and is passed over: it lacks {', '.join(missing)} (texts)"
            warnings.warn(text, stacklevel=2)
            return None
        return mark


def finished(outputs: str | Path, identity: str) -> Path | None:
    """The result of the newest complete run under ``outputs`` with this identity."""
    for run in Run.below(outputs):
        if run.is_complete and run.result is not None and (run.ended or {}).get("identity") == identity:
            return run.result
    return None


def unfinished(outputs: str | Path, identity: str, experiment: str) -> Run:
    """The unfinished run with this identity that was begun or continued last, of those that have saved a state if any.

    Raises MissingFileError.
    """
    others, empty = [], []
    for run in Run.below(outputs, BEGUN):
        if run.is_unfinished(identity):
            if run.newest_checkpoint:
                return run
            empty.append(run)
        elif run.begun["experiment"] == experiment:  # type: ignore[index]
            others.append(str(run.folder))
    if empty:
        return empty[0]
    hint = f"; with other settings there are {', '.join(others)}" if others else ""
    raise MissingFileError(
        f"ckpt_path=last: no unfinished run of {experiment} with these settings under {outputs}{hint}"
    )


def behind_ended(folder: Path) -> Path:
    """The first of ``folder``, ``folder``_2, _3, … in which no run has ended."""
    names = (folder.name + (f"_{number}" if number > 1 else "") for number in itertools.count(1))
    return next(path for name in names if not (path := folder.with_name(name)).joinpath(ENDED).exists())


def _changed(file: Path) -> int:
    """When it was changed, ns; 0 where it is gone: others come and go."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _holder(file: Path) -> str:
    try:
        who = json.loads(file.read_text(encoding="utf-8"))
        return f" (process {who['process']} on {who['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
