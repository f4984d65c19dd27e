"""Where a result comes from: code, libraries, machine, precision, checkpoint."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustdet.evaluation.precision import judged_in
from robustdet.evaluation.sources import VERSIONED, VERSIONED_WHERE_USED, digest_of

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "numpy", "albumentations", "pycocotools", "hydra-core")
CODE = ("src", "conf")  # folders of a checkout where an untracked file may decide a result
WORDS = ("results", "docs", "README.md")  # what a study and `make tables` write themselves: no result depends on it


@dataclass(frozen=True)
class Environment:
    """``commit`` and ``dirty`` (changes that are not committed, but for `WORDS`, or a new file below src/ or conf/) are
    None when the package does not run from a git checkout; ``precision`` is None where nothing was judged.
    """

    package_version: str
    commit: str | None
    dirty: bool | None
    python: str
    libraries: dict[str, str]
    device: str
    precision: str | None = None


def describe_environment(device: torch.device | str, precision: str | None = None) -> Environment:
    """``precision`` is that of `robustdet.evaluation.precision.judged_in`."""
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", Path(__file__).name) else None
    return Environment(
        package_version=_version("robustdet") or "not installed",
        commit=commit,
        dirty=None if commit is None else _dirty(),
        python=platform.python_version(),
        libraries={name: found for name in LIBRARIES if (found := _version(name))},
        device=describe_device(torch.device(device)),
        precision=precision,
    )


def conditions(detector: nn.Module, device: torch.device | str, precision: str) -> dict[str, Any]:
    """What decides an outcome besides the weights, the attack and the image: the detector's code, libraries, precision.

    As plain data, for the identity of stored outcomes; ``precision`` is Lightning's (32-true, 16-true, …).
    """
    made_of = {type(module).__module__.partition(".")[0] for module in detector.modules()}
    return {
        "detector": digest_of(detector),
        "libraries": {name: version(name) for name in sorted(VERSIONED | (VERSIONED_WHERE_USED & made_of))},
        "device": torch.device(device).type,
        "precision": judged_in(precision),
    }


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


def _dirty() -> bool:
    """A new file elsewhere (notes, results) decides nothing."""
    new = _git("status", "--porcelain", "--untracked-files=all", "--", *(f":/{folder}" for folder in CODE))
    words = (f":(exclude,top){one}" for one in WORDS)
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", ":/", *words) or new)


def _git(*arguments: str) -> str | None:
    """Output of git beside this file; None where git fails, is missing or is no checkout of this package."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
