"""What a log file gets to see of work that takes long."""

from __future__ import annotations

import pytest

from robustdet import progress
from robustdet.progress import ProgressBar, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_and_one_at_the_end(clock, capsys):
    with ProgressBar("evaluating", total=50) as bar:
        for _ in range(50):
            clock[0] += 0.5
            bar.advance(1, work=4, values={"loss": 1.5})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "evaluating  20/50  loss 1.500  8.0 images/s  0:15 left"
    assert [line.split()[1] for line in lines] == ["20/50", "40/50", "50/50"]


@pytest.mark.parametrize(("seconds", "said"), [(0.1, "10.0"), (1.25, "0.8"), (40.0, "0.025")])
def test_a_slow_rate_is_no_zero(clock, capsys, seconds, said):
    with ProgressBar("slow", total=2) as bar:
        clock[0] += seconds
        bar.advance(1, work=1)
        clock[0] += seconds
        bar.advance(1, work=1)
    assert f"  {said} images/s" in capsys.readouterr().err.splitlines()[-1]


def test_what_was_there_before_is_no_work_of_now(clock, capsys):
    with ProgressBar("Resuming x.tar", total=400.0, unit="MB", done=300.0) as bar:
        clock[0] += 20
        bar.advance(40.0, 40.0)
    assert capsys.readouterr().err.splitlines()[0] == "Resuming x.tar  340/400  2.0 MB/s  0:30 left"


def test_an_unknown_end_and_no_work_at_all(clock, capsys):
    with ProgressBar("nothing", total=None):
        clock[0] += 60
    assert capsys.readouterr().err == ""
    with ProgressBar("some", total=None) as bar:
        clock[0] += 60
        bar.advance()
    assert capsys.readouterr().err.splitlines()[0] == "some  1  "


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75.4, "1:15"), (3600, "1:00:00"), (4000, "1:06:40")])
def test_durations(seconds: float | int, text: str):
    assert duration(seconds) == text


def test_the_last_line_is_said_once_and_parts_are_named(clock, capsys):
    with ProgressBar("evaluating", total=2) as bar:
        for attack in ("clean", "pgd_cls"):
            bar.begin(attack)
            clock[0] += 11
            bar.advance(1, work=3)
    lines = [line.split("  ")[:2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [["evaluating clean", "1/2"], ["evaluating pgd_cls", "2/2"]]
    with ProgressBar("evaluating", total=2) as bar:
        bar.begin("pgd_cls")
        clock[0] += 1
        bar.advance(2)
    assert capsys.readouterr().err.startswith("evaluating  2/2  ")
