"""Memory of a process, whatever the one that started it has used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory import STATUS, resident


@pytest.mark.skipif(not STATUS.is_file(), reason="without /proc the peak of the starting process is all there is")
def test_a_started_process_does_not_begin_at_the_peak_of_the_one_that_started_it():
    held = bytearray(400 * 2**20)
    held[:: 2**12] = b"x" * len(held[:: 2**12])  # touch each page
    now = resident(peak=False)  # first, for each page more raises both
    assert resident(peak=True) >= now > 0.4
    code = "from benchmarks.memory import resident; held = b'x' * 100 * 2**20; print(resident(peak=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=Path(__file__).parents[2]
    )
    assert 0.1 < float(done.stdout) < 0.2
