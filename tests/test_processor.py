"""Settings of the whole process; each in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from robustdet import processor

FAULTS = """
import resource, sys, torch
from robustdet.processor import fast_processor

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fast_processor(keep_memory=sys.argv[1] == "True")
print([page_faults() for _ in range(10)][-1])
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_used_again_without_asking_the_system():
    kept, fetched = (
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, keep], capture_output=True, encoding="utf-8", check=True
            ).stdout
        )
        for keep in ("True", "False")
    )
    assert kept == 0
    assert fetched >= 64 / 2  # even if pages are of 2 MiB


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processor.platform, "libc_ver", lambda: ("", ""))
    assert not processor.keep_freed_memory()


def test_denormal_numbers_are_zero():
    processor.fast_processor(keep_memory=False)
    assert (torch.tensor(1e-30) * torch.tensor(1e-10)).item() == 0
