"""What a target needs beside what it has, from made-up metadata."""

from __future__ import annotations

from email.message import Message
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from bundle.closure import asked, closure, target
from robustdet.errors import InputError

INSTALLED = {
    "big": ("2.0", ["driver>=1", "small; python_version >= '3.12'"]),
    "driver": ("1.5", []),
    "small": ("0.3", ["Under_Score"]),
    "under-score": ("7", ["small"]),  # a circle
    "fancy": ("1", ["optional-one; extra == 'more'", "windows-only; sys_platform == 'win32'"]),
    "optional-one": ("9", []),
}


class Fake(Distribution):
    def __init__(self, version: str, needs: list[str]) -> None:
        self.told = Message()
        self.told["Version"] = version
        for one in needs:
            self.told["Requires-Dist"] = one

    @property
    def metadata(self) -> Any:
        return self.told

    @property
    def requires(self) -> list[str]:
        return self.told.get_all("Requires-Dist") or []

    def read_text(self, filename: str) -> None: ...

    def locate_file(self, path: Any) -> Any: ...


def installed(name: str) -> Distribution:
    if name not in INSTALLED:
        raise PackageNotFoundError(name)
    return Fake(*INSTALLED[name])


def of(requirements: list[str], *have: str, python: str = "3.12") -> dict[str, str]:
    return closure(requirements, have, target(python, "x86_64"), installed)


def test_all_that_is_required_is_pinned_and_circles_end():
    assert of(["big"]) == {"big": "2.0", "driver": "1.5", "small": "0.3", "under-score": "7"}


def test_markers_are_asked_about_the_target():
    assert of(["big"], python="3.11") == {"big": "2.0", "driver": "1.5"}
    assert of(["driver; sys_platform == 'win32'"]) == {}


def test_what_the_target_has_is_not_entered_and_what_it_shares_is():
    assert of(["big"], "Big") == {}
    assert of(["big", "under_score"], "BIG") == {"small": "0.3", "under-score": "7"}


def test_extras_are_entered_when_asked_for():
    assert of(["fancy"]) == {"fancy": "1"}
    assert of(["fancy[more]"]) == {"fancy": "1", "optional-one": "9"}
    assert of(["fancy", "fancy[more]"]) == of(["fancy[more]"])


def test_what_is_not_installed_here_is_named_with_who_needs_it():
    with pytest.raises(InputError, match=r"^the project needs unknown>=2 on Python 3\.13, and it is not installed"):
        of(["unknown>=2"], python="3.13")


def test_a_checkout_asks_for_its_extras_and_its_builder(tmp_path: Path):
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\n[project]\nname = "it"\ndependencies = ["a>=1"]\n'
        '[project.optional-dependencies]\nmore = ["b", "it[other]"]\nother = ["c"]\n',
        encoding="utf-8",
    )
    assert asked(file, []) == ["a>=1", "setuptools>=77"]
    assert asked(file, ["more"]) == ["a>=1", "b", "setuptools>=77"]
    with pytest.raises(InputError, match="extra 'gone': expected one of more, other"):
        asked(file, ["gone"])
