"""A few trials of `make chaos`, in a process that may fork: it has no thread but its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.forks import ROOT


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="its commands are forks")
def test_commands_survive_what_is_done_to_them():
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--trials", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[::3] == ["all", "0"]
