"""Progress that works on a terminal and in a log file: a live bar on the one, a line every few seconds in the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float | int) -> str:
    """``75.4`` as ``1:15``; hours appear when there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ProgressBar:
    """Counts ``unit``s (images, say) done out of ``total`` and shows rate, time left and the latest values.

    Used as a context manager; ``total=None`` when the end is unknown. ``done`` was there before (a resumed download).
    """

    def __init__(self, title: str, total: float | int | None, unit: str = "images", done: float | int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.part = ""  # what is being done now
        self.told = done  # by the last line
        self.done, self.work = float(done), 0.0
        self.before = done
        self.start = self.last_line = time.monotonic()
        self.live: Progress | None = None
        if sys.stderr.isatty():
            self.live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[shown]}"),
                console=Console(stderr=True),
            )
            self.task = self.live.add_task(title, total=total, completed=int(done), shown="")

    def __enter__(self) -> ProgressBar:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()
        elif kind is None and self.done > self.told:  # else the last line says it already
            self.part = ""
            self._print_line({})

    def begin(self, part: str) -> None:
        """From now on the bar says that it is at work on this part of the whole; "" for none."""
        self.part = part
        if self.live is not None:
            self.live.update(self.task, description=self._heading())

    @contextmanager
    def working(self, part: str, work: float | int) -> Iterator[None]:
        """One step of the whole, of this part and with so many units of work, is made inside."""
        self.begin(part)
        yield
        self.advance(1, work)

    def advance(self, steps: float | int = 1, work: float | int = 0, values: Mapping[str, float] | None = None) -> None:
        """``steps`` count towards ``total``; ``work`` is the number of units they took (for the rate)."""
        self.done += steps
        self.work += work
        if self.live is not None:
            self.live.update(self.task, advance=steps, shown=self._shown(values or {}))
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._print_line(values or {})

    def _heading(self) -> str:
        return f"{self.title} {self.part}".rstrip()

    def _shown(self, values: Mapping[str, float]) -> str:
        rate = self.work / max(1e-9, time.monotonic() - self.start)
        spoken = f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
        parts = [f"{name} {value:.3f}" for name, value in values.items()]
        return "  ".join([*parts, f"{spoken} {self.unit}/s"] if self.work else parts)

    def _print_line(self, values: Mapping[str, float]) -> None:
        self.last_line = time.monotonic()
        spent = self.last_line - self.start
        of_total = f"/{self.total:.0f}" if self.total else ""
        each = spent / max(1e-9, self.done - self.before)
        left = f"  {duration(each * (self.total - self.done))} left" if self.total and self.done > self.before else ""
        self.told = self.done
        print(f"{self._heading()}  {self.done:.0f}{of_total}  {self._shown(values)}{left}", file=sys.stderr, flush=True)
