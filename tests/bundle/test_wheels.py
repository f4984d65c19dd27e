"""What is done with pip's answers, which are made up here: no test has a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundle import wheels
from robustdet.errors import InputError, TransferError

PINS = {"numpy": "2.4.6", "antlr4-python3-runtime": "4.9.3"}
NO_WHEEL = "ERROR: No matching distribution found for antlr4-python3-runtime==4.9.3"


def answering(monkeypatch: pytest.MonkeyPatch, built: str, *others: str | None) -> list[tuple[str, ...]]:
    """pip that has no wheel of antlr, builds ``built`` of it, and answers ``others`` to a second download."""
    asked: list[tuple[str, ...]] = []
    answers = iter([NO_WHEEL, *others])

    def pip(command: str, *arguments: str) -> str | None:
        asked.append((command, *arguments))
        if command == "download":
            return next(answers)
        (Path(arguments[arguments.index("-w") + 1]) / built).touch()
        return None

    monkeypatch.setattr(wheels, "pip", pip)
    return asked


@pytest.fixture
def download(tmp_path: Path) -> Callable[[], Any]:
    return lambda: wheels.download(PINS, tmp_path, "3.12", "manylinux_2_28_x86_64")


def test_what_has_no_wheel_is_built_and_the_others_are_fetched(
    monkeypatch: pytest.MonkeyPatch, download: Callable[[], Any]
):
    asked = answering(monkeypatch, "antlr4_python3_runtime-4.9.3-py3-none-any.whl", None)
    download()
    assert [one[0] for one in asked] == ["download", "wheel", "download"]
    assert asked[0][-2:] == ("numpy==2.4.6", "antlr4-python3-runtime==4.9.3")
    assert asked[1][-1] == "antlr4-python3-runtime==4.9.3"
    assert asked[2][-1] == "numpy==2.4.6"
    assert {"--only-binary=:all:", "3.12", "manylinux_2_28_x86_64", "manylinux2014_x86_64"} <= set(asked[2])


def test_what_is_built_for_this_machine_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch, download: Callable[[], Any], tmp_path: Path
):
    answering(monkeypatch, "antlr4_python3_runtime-4.9.3-cp311-cp311-linux_x86_64.whl")
    with pytest.raises(InputError, match=r"^antlr4-python3-runtime==4\.9\.3 has no wheel for Python 3\.12 on many"):
        download()
    assert list(tmp_path.iterdir()) == []


def test_another_trouble_is_pips_own_words(monkeypatch: pytest.MonkeyPatch, download: Callable[[], Any]):
    answering(monkeypatch, "antlr4_python3_runtime-4.9.3-py3-none-any.whl", "ERROR: Could not reach the index")
    with pytest.raises(TransferError, match="pip could not fetch the wheels:\nERROR: Could not reach the index"):
        download()
