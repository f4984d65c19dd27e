"""Windows and macOS, as far as Linux can tell: what only POSIX has is taken away, and text says its encoding."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustdet.evaluation.record import write_records
from tests.evaluation.records import RECORD
from tests.forks import ROOT
from tests.launchers.commands import FEW

# Libraries are imported first: what they do on another system is their own affair.
ELSEWHERE = """
import importlib, multiprocessing.spawn, os, pkgutil, signal, subprocess, sys
import albumentations, cv2, filelock, hydra.main, jinja2, jaxtyping, markdown_it, matplotlib.figure
import pycocotools.cocoeval, pytorch_lightning, rich.console, scipy.stats, torch, torch.utils.data, torchvision, yaml
import getpass, logging.config, tempfile, uuid, wandb
from pytorch_lightning.trainer.connectors import signal_connector

signal_connector._IS_WINDOWS = True
there = [getattr(signal, name) for name in ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")]
signal.valid_signals = lambda: set(there)
for name in ("fork", "forkpty", "sched_getaffinity", "getuid", "geteuid", "killpg", "getpgid", "setsid", "uname"):
    delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "alarm", "setitimer", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None  # importing it is an ImportError

import robustdet
for module in pkgutil.walk_packages(robustdet.__path__, "robustdet."):
    importlib.import_module(module.name)
from robustdet.cli.train import main
main()
"""


@pytest.mark.slow
def test_it_is_imported_and_trains_without_what_windows_has_not(tmp_path: Path):
    arguments = ["experiment=shapes_std", *FEW, "trainer=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ELSEWHERE,
            *arguments,
            f"paths.run={tmp_path / 'run'}",
            f"paths.data={tmp_path / 'data'}",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "final.ckpt").is_file()


@pytest.mark.slow
def test_a_session_that_is_not_utf8_writes_utf8(tmp_path: Path):
    """In the C locale without UTF-8 mode text is ASCII by default, and "ε" an error."""
    write_records([RECORD], tmp_path / "evaluation" / "records")
    code = "from robustdet.cli.report import main; main()"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, "output=page", "folders=[evaluation]"],
        cwd=tmp_path,
        env=os.environ | plain,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "ε" in page  # of docs/flags.md


# Encodings


def unspecified(text: str) -> Iterator[int]:
    """Lines where text is read or written in whatever encoding the session has. (Ruff's rule sees a fraction.)"""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if None in named or "encoding" in named:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", None)
        text_arguments = {"read_text": 0, "write_text": 1}
        if name in text_arguments and isinstance(node.func, ast.Attribute):
            if len(node.args) <= text_arguments[name]:
                yield node.lineno
        elif name in {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile"} and owner not in {"Image", "tarfile"}:
            is_method = isinstance(node.func, ast.Attribute) and owner not in {"io", "os", "gzip"}
            position = 0 if is_method or name.endswith("TemporaryFile") else 1
            mode = named.get("mode", node.args[position] if len(node.args) > position else None)
            default = "w+b" if name.endswith("TemporaryFile") else "r"
            modes = [part.value for part in ast.walk(mode) if isinstance(part, ast.Constant)] if mode else [default]
            if not any("b" in str(one) for one in modes):
                yield node.lineno
        elif name in {"run", "Popen", "check_output"} and {"text", "universal_newlines"} & named.keys():
            yield node.lineno


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("open(path, mode='w')", True),
        ("path.open()", True),
        ("path.open('ab' )", False),
        ("Image.open(path)", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
    ],
)
def test_what_has_no_encoding_is_found(line: str, found: bool):
    assert bool(list(unspecified(line))) == found


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "bundle", "notebooks"])
def test_text_says_its_encoding(folder: str):
    files = [file for file in (ROOT / folder).rglob("*.py") if "__pycache__" not in file.parts]
    assert [f"{file}:{line}" for file in files for line in unspecified(file.read_text(encoding="utf-8"))] == []
