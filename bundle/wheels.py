"""Wheels for another machine's Python, fetched by pip; what has no wheel but is pure Python is built here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from robustdet.errors import InputError, TransferError

OLDEST_GLIBC = 5  # of 2.x: the first that a manylinux tag names
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
MISSING = re.compile(r"No matching distribution found for ([\w.-]+)==")


def platforms(platform: str) -> list[str]:
    """All tags of wheels that run where ``platform``'s do ("manylinux_2_28_x86_64"), newest first.

    Raises InputError for another kind of platform.
    """
    found = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform)
    if not found:
        raise InputError(f"platform {platform!r}: expected manylinux_2_GLIBC_MACHINE, such as manylinux_2_28_x86_64")
    newest, machine = int(found[1]), found[2]
    tags = []
    for glibc in range(newest, OLDEST_GLIBC - 1, -1):
        tags.append(f"manylinux_2_{glibc}_{machine}")
        if glibc in LEGACY:
            tags.append(f"{LEGACY[glibc]}_{machine}")
    return [*tags, f"linux_{machine}"]


def download(pins: Mapping[str, str], folder: Path, python: str, platform: str) -> None:
    """Puts one wheel of each pin into ``folder``. Raises InputError for one that has none, TransferError otherwise."""
    left, for_target = dict(pins), ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for_target += [word for tag in platforms(platform) for word in ("--platform", tag)]
    while left:
        exact = [f"{name}=={version}" for name, version in left.items()]
        said = pip("download", *for_target, "-d", str(folder), *exact)
        if said is None:
            return
        without = MISSING.search(said)
        if not without or without[1] not in left:
            raise TransferError(f"pip could not fetch the wheels:\n{said}")
        build(without[1], left.pop(without[1]), folder, python, platform)


def build(name: str, version: str, folder: Path, python: str, platform: str) -> None:
    """A wheel of a source distribution, where it is the same on every machine."""
    said = pip("wheel", "--no-binary", name, "-w", str(folder), f"{name}=={version}")
    why = f"{name}=={version} has no wheel for Python {python} on {platform}"
    if said is not None:
        raise InputError(f"{why}, and none could be built here:\n{said}")
    stem = re.sub(r"[-_.]+", "_", name)
    (wheel,) = (file for file in folder.glob("*.whl") if file.name.lower().startswith(f"{stem}-"))
    if not wheel.name.endswith("-none-any.whl"):
        wheel.unlink()
        raise InputError(f"{why}, and what is built here is for this machine alone: take another PYTHON_VERSION")


def pip(command: str, *arguments: str) -> str | None:
    """None where all went well, otherwise its errors."""
    quiet = ["--disable-pip-version-check", "--quiet", "--no-deps"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *quiet, *arguments], capture_output=True, encoding="utf-8"
    )
    return None if done.returncode == 0 else done.stderr.strip()
