"""A command that is told to go (SIGTERM, Ctrl-C) ends as an error does: files are closed, what was done is said.

Its exit code is the signal's, 143 or 130: `train && evaluate` does not go on, and a sweep stops. A second Ctrl-C does
not wait for that. While weights are learnt, `robustdet.training.preemption` hears the signals instead and saves the
state first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_told: list[int] = []  # signals that have raised in this process


@contextmanager
def signal_counts() -> Iterator[None]:
    """Where a signal has been heard inside, it is what the process ends by, whatever else is raised.

    It is raised anywhere, and code that it breaks off can stumble over what is half done as it cleans up.
    """
    _told.clear()
    try:
        yield
    except Exception as error:
        if _told:
            raise SystemExit(128 + _told[0]) from error
        raise


def stop_when_told() -> None:
    """From now on SIGTERM raises SystemExit(143) in this process. Where threads run commands, only the first can be."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)


def stop_at_ctrl_c() -> None:
    """The same for SIGINT and SystemExit(130); a second one ends the process where it is."""
    signal.signal(signal.SIGINT, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if _in_finalizer(frame):
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        return
    _told.append(number)
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    sys.exit(128 + number)


def _in_finalizer(frame: FrameType | None) -> bool:
    """Whether an object is being destroyed: Python swallows what is raised there."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
