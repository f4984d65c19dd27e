"""What settings from a file may ask for. Who loads a checkpoint may not know who made it, and settings name code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from robustdet.errors import InputError

VOUCHED = "ROBUSTDET_TRUST"  # environment variable: packages that its user vouches for, separated by commas
LOOK_UP = ("hydra.utils.get_method", "hydra.utils.get_object", "hydra.utils.get_class")  # what `path` names
# Rooms that detectors, methods, attacks and schedules are made of: all that is defined in them.
ROOMS = ("robustdet.attacks.", "robustdet.defences.", "robustdet.detection.", "robustdet.training.schedulers.")
# Where classes alone are let through: functions there read, write and fetch files.
CLASSES = (
    *ROOMS, "robustdet.data.", "robustdet.evaluation.", "robustdet.interop.", "robustdet.training.validation.",
    "robustdet.training.part_rates.", "albumentations.",
    "torch.nn.", "torch.optim.", "torchvision.models.", "torchvision.ops.", "torchvision.transforms.",
)  # fmt: skip
UNUSED = ("callbacks", "logger", "trainer")  # settings of a run that is over: commands have their own


def require_trusted(settings: Mapping[str, Any], source: Path) -> None:
    """Raises InputError that names ``source``, the key and the code, for code that `trusted` does not find."""
    for key, path in _named({key: value for key, value in settings.items() if key not in UNUSED}, ""):
        if trusted(path) is None:
            raise InputError(
                f"{source}: {key} asks for {path}, which is not of this project, and would be run. If you trust who "
                f"wrote it: {VOUCHED}={path.partition('.')[0]}"
            )


def trusted(path: str) -> Any:
    """The class or function of this dotted path; None where there is none, or where nobody vouches for it.

    Where it is defined counts: what a module imports, as ``….pgd.torch.load``, is not its own. Who vouches for a
    package vouches for all that can be reached through it.
    """
    if path.startswith(tuple(f"{name.strip()}." for name in os.environ.get(VOUCHED, "").split(",") if name.strip())):
        return _found(path)
    if not path.startswith(tuple(f"{name.partition('.')[0]}." for name in CLASSES)):
        return None
    found = _found(path)
    home = f"{getattr(found, '__module__', '')}."
    return found if home.startswith(CLASSES if isinstance(found, type) else ROOMS) else None


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


def _found(path: str) -> Any:
    first, *rest = path.split(".")
    try:
        found = import_module(first)
        for name in rest:
            found = getattr(found, name) if hasattr(found, name) else import_module(f"{found.__name__}.{name}")
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    return found
