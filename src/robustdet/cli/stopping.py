"""A command that is told to go (SIGTERM) ends as an error does, so that files are closed and what was done is said.

Its exit code is the signal's, 143: `train && evaluate` does not go on, and a sweep stops. While weights are learnt,
`robustdet.training.preemption` hears the signal instead and saves the state first.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType


def stop_when_told() -> None:
    """From now on SIGTERM raises SystemExit(143) in this process. Where threads run commands, only the first can be."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
