"""What a run's folder may ask for. Who evaluates a checkpoint may not know who made it, and its config names code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from robustdet.errors import InputError
from robustdet.training.rebuilding import LOOK_UP, TRUSTED

OURS, OTHERS = "ROBUSTDET_TRUST", ("albumentations", "torch.nn", "torch.optim", "torchvision")
UNUSED = ("callbacks", "logger", "trainer")  # of a run that is over: commands have their own


def require_trusted(settings: Mapping[str, Any], source: Path) -> None:
    """Raises InputError that names ``source``, the key and the code, for code that is none of ours or of a library's.

    Trusted are this project's parts and the classes of libraries that networks, images and optimisers are made of; and
    the packages that the environment variable ``ROBUSTDET_TRUST`` names, separated by commas.
    """
    for key, path in _named({key: value for key, value in settings.items() if key not in UNUSED}, ""):
        if not _is_trusted(path):
            raise InputError(
                f"{source}: {key} asks for {path}, which is not of this project, and would be run. If you trust who "
                f"wrote it: {OURS}={path.partition('.')[0]}"
            )


def _named(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every piece of code that a node and those below it name: its key and its dotted path."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            target = str(node["_target_"])
            yield (f"{where}path", str(node.get("path"))) if target in LOOK_UP else (f"{where}_target_", target)
        for key, value in node.items():
            yield from _named(value, f"{where}{key}.")
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _named(value, f"{where}{place}.")


def _is_trusted(path: str) -> bool:
    """Where the code is defined counts: what a module imports, as ``….pgd.torch.load``, is not its own."""
    mine = tuple(name.strip() for name in os.environ.get(OURS, "").split(",") if name.strip())
    if not path.startswith(tuple(f"{name}." for name in ("robustdet", *OTHERS, *mine))):
        return False
    found = _found(path)
    home = f"{getattr(found, '__module__', '')}."
    if home.startswith(tuple(f"{name}." for name in mine)):
        return True
    if isinstance(found, type):
        return home.startswith(tuple(f"{name}." for name in ("robustdet", *OTHERS)))
    return home.startswith(TRUSTED)


def _found(path: str) -> Any:
    """What a dotted path names; None where there is nothing."""
    first, *rest = path.split(".")
    try:
        found = import_module(first)
        for name in rest:
            found = getattr(found, name) if hasattr(found, name) else import_module(f"{found.__name__}.{name}")
    except (ImportError, AttributeError, TypeError):
        return None
    return found
