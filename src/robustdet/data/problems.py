"""What is wrong with a data set, collected so that all of it is told at once.

Readers report each fault where they find it and go on without the object or image; who asked them decides, when they
are through, whether that is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from robustdet.errors import InputError

log = logging.getLogger(__name__)

SHOWN = 5  # faults that an error message or a log has in full; `data.check=true` lists them all


@dataclass(frozen=True)
class Problem:
    """One fault: where it is, what is there and what was expected.

    ``record`` names the object or image within the file ("object 3 of image im00"); ``field`` is a part of it, and both
    are empty where the whole file is meant. ``notice`` marks what belongs to sound data sets too, such as a box without
    area: it is left out or clipped, counted and said, and never an error.
    """

    file: str
    record: str
    field: str
    value: str
    expected: str
    notice: bool = False

    def __str__(self) -> str:
        place = f"{self.file}: {self.record}" if self.record else self.file
        found = f"{place}: {self.field} is {self.value}" if self.field else f"{place} {self.value}"
        return f"{found}; expected {self.expected}"


class Fault(InputError):
    """A file that cannot be used at all."""

    def __init__(self, file: Path | str, value: str, expected: str) -> None:
        self.problem = Problem(str(file), "", "", value, expected)
        super().__init__(str(self.problem))


@dataclass
class Problems:
    """The faults of a data set in the order in which they were met, each once.

    ``policy`` "error" makes `settle` raise; "skip" leaves out the objects and images that have a fault.
    """

    policy: str = "error"
    met: dict[Problem, None] = field(default_factory=dict)
    settled: int = 0  # how many of them `settle` has told

    def __post_init__(self) -> None:
        if self.policy not in ("error", "skip"):
            raise InputError(f"data.on_problem={self.policy}: expected error or skip")

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.met)

    def __len__(self) -> int:
        return len(self.met)

    def add(
        self, file: Path | str, record: str, name: str, value: object, expected: str, *, notice: bool = False
    ) -> None:
        """``value`` is what the file has there: a text is put in quotes, None is missing, what is long is cut."""
        self.report(Problem(str(file), record, name, shown(value), expected, notice))

    def report(self, problem: Problem) -> None:
        self.met[problem] = None

    @property
    def faults(self) -> list[Problem]:
        """All but notices."""
        return [problem for problem in self.met if not problem.notice]

    def settle(self) -> None:
        """Tell what has been met since the last time, the first few in full.

        Raises InputError where there are faults and the policy is "error".
        """
        new = list(self.met)[self.settled :]
        self.settled = len(self.met)
        notices = [problem for problem in new if problem.notice]
        faults = [problem for problem in new if not problem.notice]
        for notice in notices[:SHOWN]:
            log.warning("%s", notice)
        if len(notices) > SHOWN:
            log.warning("… and %d more of such; data.check=true lists them all", len(notices) - SHOWN)
        if not faults:
            return
        text = "\n  ".join([*map(str, faults[:SHOWN]), *(["…"] if len(faults) > SHOWN else [])])
        if self.policy == "error":
            count = "" if len(faults) == 1 else f"{len(faults)} problems in the data:\n  "
            raise InputError(
                f"{count}{text}\ndata.check=true lists all that is wrong with the data; "
                "data.on_problem=skip leaves such objects and images out."
            )
        log.warning("problems: %d; what has them is left out (data.on_problem=skip):\n  %s", len(faults), text)


def shown(value: object, longest: int = 120) -> str:
    """A value of a file as messages have it."""
    if value is None:
        return "missing"
    text = f"the text {value!r}" if isinstance(value, str) else str(value)
    return text if len(text) <= longest else f"{text[:longest]}…"
