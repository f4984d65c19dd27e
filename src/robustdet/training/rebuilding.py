"""A training's parts from their settings as plain data, as a checkpoint keeps them.

A node with a ``_target_`` is what that makes of the node's other keys, nested ones first, or with ``_partial_`` waits
for more arguments: Hydra's form. But who loads a checkpoint may not know who wrote it. So nothing is called but what
detectors, methods, attacks and schedules of this project, and torch's optimisers, are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

from robustdet.errors import InputError

TRUSTED = ("robustdet.attacks.", "robustdet.defences.", "robustdet.detection.", "robustdet.training.", "torch.optim.")
LOOK_UP = ("hydra.utils.get_method", "hydra.utils.get_object", "hydra.utils.get_class")  # what `path` names
WORDS = {"_target_", "_partial_", "_convert_", "_recursive_"}


def rebuilt(settings: Any) -> Any:
    """What ``settings`` describe; what is an object already stays as it is.

    Raises ValueError for a target that is not of this project or of `torch.optim`.
    """
    if isinstance(settings, list):
        return [rebuilt(value) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    values = {key: rebuilt(value) for key, value in settings.items() if key not in WORDS}
    if "_target_" not in settings:
        return values
    if settings["_target_"] in LOOK_UP:
        return _named(values["path"])
    made = partial(_named(settings["_target_"]), **values)
    return made if settings.get("_partial_") else made()


def _named(path: str) -> Any:
    """The class or function of this dotted path. What a module imports, as `….pgd.torch.load`, is not its own."""
    module, _, name = path.rpartition(".")
    if path.startswith(TRUSTED):
        with suppress(ModuleNotFoundError, AttributeError):
            found = getattr(import_module(module), name)
            if f"{getattr(found, '__module__', '')}.".startswith(TRUSTED):
                return found
    raise InputError(
        f"the checkpoint asks for {path}, which is not of this project: if you trust it, build that part yourself and "
        "hand it in, as in DetectionModule.load_from_checkpoint(path, method=…)"
    )
