"""A progress bar on standard error for what takes more than a few seconds; plain log lines where nobody watches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

log = logging.getLogger(__name__)


@contextmanager
def progress(title: str, total: int | None, done: int = 0, in_bytes: bool = False) -> Iterator[Callable[..., None]]:
    """Show a bar of ``total`` steps (or bytes); the function handed out advances it by its argument, 1 by default."""
    console = Console(stderr=True)
    if not console.is_terminal:
        log.info("%s …", title)
    counters: list[ProgressColumn] = [DownloadColumn(), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn()]
    columns = [TextColumn("{task.description}"), BarColumn(), *counters, TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda steps=1: bar.advance(task, steps)
