"""Trained weights by name: torchvision's own file, from torch's cache or downloaded into it, once for all processes."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from filelock import FileLock
from torchvision.models import WeightsEnum

from robustdet.errors import InputError, MissingFileError

IMAGENET = "imagenet"


def located(weights: str | Path, own: WeightsEnum | None, key: str, word: str = IMAGENET) -> Path:
    """The file that ``weights`` means: ``own``, torchvision's, for ``word``, otherwise the path itself.

    torchvision's is looked for in torch's cache (``$TORCH_HOME/hub/checkpoints``) and else downloaded with progress and
    compared with the hash in its name. Raises MissingFileError that names the file, where it was looked for, ``key``
    (the setting) and what can be done; InputError where there is no ``own``.
    """
    if own is None:
        raise InputError(f"{key}={weights}: this network has no trained weights, set {key}=null")
    cached = cached_file(own)
    name = f"torchvision's {own}, {cached.name}"
    others = f"{key}=FILE, or {key}=null for random weights, which cost many points of AP"
    if str(weights) != word:
        if not Path(weights).is_file():
            raise MissingFileError(
                f"{key}={weights}: no such file. Also possible: {key}={word} ({name}), another {others}"
            )
        return Path(weights)
    if cached.is_file():
        return cached
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.with_name(f".{cached.name}.lock")):
            if not cached.is_file():
                digest = re.search(r"-([0-9a-f]{8,})\.", cached.name)
                torch.hub.download_url_to_file(own.url, str(cached), digest and digest[1], progress=True)
    except (OSError, RuntimeError) as error:  # no network, no room, another content than its name says
        raise MissingFileError(
            f"{key}={word}: {name} is not in {cached.parent} and could not be downloaded: {error}. "
            f"Download {own.url} on a machine with a network and put it there. Also possible: {others}"
        ) from error
    return cached


def cached_file(own: WeightsEnum) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / own.url.rpartition("/")[2]
