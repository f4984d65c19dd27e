"""Where a result comes from: code, libraries, machine, checkpoint."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "numpy", "albumentations", "pycocotools", "hydra-core")


@dataclass(frozen=True)
class Environment:
    """``commit`` and ``dirty`` (uncommitted changes) are None when the package does not run from a git checkout."""

    package_version: str
    commit: str | None
    dirty: bool | None
    python: str
    libraries: dict[str, str]
    device: str


def describe_environment(device: torch.device | str) -> Environment:
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", Path(__file__).name) else None
    return Environment(
        package_version=_version("robustdet") or "not installed",
        commit=commit,
        dirty=None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no")),
        python=platform.python_version(),
        libraries={name: found for name in LIBRARIES if (found := _version(name))},
        device=describe_device(torch.device(device)),
    )


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def file_sha256(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of git beside this file; None where git fails, is missing or is no checkout of this package."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
