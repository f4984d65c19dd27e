"""`make gpu`: a wrong result is told from a right one, parts are cut off and leave what they have, and it runs here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.__main__
import benchmarks.gpu.training
from benchmarks.gpu.page import page, results
from benchmarks.gpu.parts import LIMITS, Part, parts
from benchmarks.gpu.running import run
from benchmarks.gpu.training import Trained, markdown, study_of
from tests.forks import ROOT
from tests.gpu.comparing import Compared, Comparisons, difference, unequal_share

EXPECTED = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([10.0])}


@pytest.mark.parametrize(
    ("found", "apart"),
    [
        ({"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([10.0])}, 0.0),
        ({"a": torch.tensor([1.0, -2.02]), "b": torch.tensor([10.1])}, 0.01),
        ({"a": torch.tensor([1.2, -2.0]), "b": torch.tensor([10.0])}, 0.1),
        ({"a": torch.tensor([1.0, -2.0])}, float("inf")),
        ({"a": torch.tensor([1.0]), "b": torch.tensor([10.0])}, float("inf")),
        ({"a": torch.tensor([1.0, float("nan")]), "b": torch.tensor([10.0])}, float("inf")),
    ],
)
def test_a_difference_is_relative_to_each_tensors_largest_value(found: dict[str, torch.Tensor], apart: float):
    assert difference(EXPECTED, found) == pytest.approx(apart, rel=1e-5)


def test_pixels_are_counted_that_are_not_equal():
    one = torch.zeros(1, 3, 2, 2)
    other = one.clone()
    other[0, 0, 0, 0], other[0, 0, 0, 1] = 1e-3, 1e-5
    assert unequal_share(one, other) == pytest.approx(1 / 12)
    assert unequal_share(one, one * float("nan")) == unequal_share(one, one[..., :1]) == float("inf")


@pytest.mark.parametrize(
    ("apart", "wrong", "trouble"),
    [
        (1e-4, 1e-2, None),
        (2e-3, 1e-2, "network tiny: differs by 0.002, expected at most 0.001"),
        (float("nan"), 1e-2, "network tiny: differs by nan, expected at most 0.001"),
        (1e-4, 5e-4, "network tiny: a wrong result differs by 0.0005 only: nothing is shown"),
    ],
)
def test_a_comparison_fails_for_a_wrong_result_and_where_nothing_could(apart: float, wrong: float, trouble: str | None):
    assert Compared("network", "tiny", apart, 1e-3, wrong).trouble == trouble


def test_a_comparison_is_on_file_before_it_fails(tmp_path: Path):
    compare = Comparisons(tmp_path / "compared.jsonl")
    wrong = {"a": torch.tensor([2.0, -2.0]), "b": torch.tensor([10.0])}
    assert compare.trouble_of("network", "right", EXPECTED, EXPECTED, wrong, 1e-3) is None
    swapped = compare.trouble_of("network", "swapped", EXPECTED, wrong, EXPECTED, 1e-3)
    assert swapped == "network swapped: differs by 0.5, expected at most 0.001"
    compare.observe("resume", "kernels", "no difference")
    (tmp_path / "log.txt").write_text("FAILED tests/gpu/test_networks.py::it\n1 failed, 1 passed in 2.00s\n", "utf-8")
    assert results(tmp_path).splitlines()[2:] == [
        "| network | 2 | 1 | 5.0e-01 (swapped) | 1e-03 | 0.0e+00 |",
        "",
        "- UNEQUAL: network swapped: differs by 0.5, expected at most 0.001",
        "- resume, kernels: no difference",
        "- FAILED tests/gpu/test_networks.py::it",
        "- pytest: 1 failed, 1 passed in 2.00s",
    ]


def test_a_part_that_takes_too_long_is_cut_off_with_its_children_and_its_table_stays(tmp_path: Path):
    folder = tmp_path / "speed"
    code = f"""
import pathlib, subprocess, sys, time
folder = pathlib.Path({str(folder)!r})
(folder / "table.md").write_text("Measured on: it\\n\\n| one |\\n|---|\\n| row |\\n", encoding="utf-8")
beat = "import pathlib, time\\nwhile True: pathlib.Path({str(folder / "beat")!r}).touch(); time.sleep(0.02)"
subprocess.Popen([sys.executable, "-c", beat]).wait()
"""
    outcome = run(Part("speed", "Speed", (sys.executable, "-c", code), folder, limit=1.5))
    assert outcome.code is None
    assert outcome.said.startswith("cut off after 2 s of at most 2")
    (folder / "beat").unlink()
    with pytest.raises(subprocess.TimeoutExpired):  # nobody is left to touch it again
        subprocess.run([sys.executable, "-c", "import time; time.sleep(9)"], timeout=0.2)
    assert not (folder / "beat").exists()
    assert page("a card", [outcome]).endswith("| one |\n|---|\n| row |\n")


def test_a_part_that_fails_says_what_it_said_last(tmp_path: Path):
    part = Part("memory", "Memory", (sys.executable, "-c", "import sys; sys.exit('no room')"), tmp_path, limit=20)
    outcome = run(part)
    assert outcome.code == 1
    assert "it ended with 1, see memory/log.txt" in outcome.said
    assert results(tmp_path) == "Nothing was measured: no room"


@pytest.mark.parametrize(("size", "seconds"), [("full", 600), ("quick", 240)])
def test_the_limits_of_all_parts_together_are_what_is_promised(size: str, seconds: float):
    chosen = parts(size, "cuda", Path("out"), Path("voc"), ["model.weights=null"])
    assert sum(part.limit for part in chosen) <= seconds
    assert [part.name for part in chosen] == list(LIMITS[size])
    (training,) = (part.command for part in chosen if part.name == "training")
    assert training[-3:] == ("--data", "voc", "model.weights=null")


def test_a_short_training_names_its_study_and_shows_what_failed():
    assert (study_of(None), study_of(Path("voc"))[:6]) == ("shapes", "photos")
    rows = markdown([Trained("std", 100, 5.0, 0.5, 0.125, 1.0), Trained("cfr", 50, 1.0, trouble="InputError: no")])
    assert rows.splitlines()[2:] == [
        "| std | 100 | 5 | 50 | 50.0 | 12.5 | 1.0 |  |",
        "| cfr | 50 | 1 | 20 |  |  |  | InputError: no |",
    ]


def started(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_there_is_no_gpu_it_says_so_in_a_sentence(tmp_path: Path):
    done = started("--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert re.fullmatch(r"No GPU: torch \S+ sees none here\. .*\n", done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_runs_on_a_cpu_and_compares_a_share_of_what_a_gpu_is_held_to(tmp_path: Path):
    """So that tests/gpu do not rot."""
    least = ["--device", "cpu", "--least", "--patience", "10", "--output", str(tmp_path)]
    done = started(*least, "--only", "equal")
    assert done.returncode == 0, done.stdout + done.stderr
    said = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (.*)$", said, re.MULTILINE) == ["Equal to the CPU"]
    assert re.search(r"^- pytest: 2 passed", said, re.MULTILINE)
    lines = (tmp_path / "equal" / "compared.jsonl").read_text(encoding="utf-8").splitlines()
    compared = [json.loads(line) for line in lines]
    network = {"tiny_ssd, double", "tiny_ssd, single", "tiny_ssd, single, gradient"}
    assert {line["name"] for line in compared} == {*network, "fgsm, share of pixels"}
    (single,) = (line for line in compared if line["name"] == "tiny_ssd, single")
    assert 0 < single["difference"] < single["tolerance"] < single["wrong"]


def in_this_process(part: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A part of the least size, without the imports of a process of its own; its table."""
    (command,) = (one.command for one in parts("least", "cpu", folder, None, []) if one.name == part)
    monkeypatch.setattr(sys, "argv", list(command[2:]))
    mains = {"speed": benchmarks.__main__.main, "training": benchmarks.gpu.training.main}
    mains[part]()
    return (folder / part / "table.md").read_text(encoding="utf-8")


def test_its_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "| defence | RobustDet (auto) / (SSD + AID) |" in in_this_process("speed", tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")
def test_its_short_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = in_this_process("training", tmp_path, monkeypatch)
    assert re.search(r"^\| std \| 2 \| \d+ \| \d+ \| \d+\.\d \| \d+\.\d \|  \|  \|$", table, re.MULTILINE)
