"""A training's parts from their settings as plain data, as a checkpoint keeps them.

A node with a ``_target_`` is what that makes of the node's other keys, nested ones first, or with ``_partial_`` waits
for more arguments: Hydra's form. Nothing is called but what `robustdet.trust` lets through.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from robustdet.errors import InputError
from robustdet.trust import LOOK_UP, trusted

WORDS = {"_target_", "_partial_", "_convert_", "_recursive_"}


def rebuilt(settings: Any) -> Any:
    """What ``settings`` describe; what is an object already stays as it is.

    Raises InputError for a target that is not trusted.
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
    found = trusted(path)
    if found is None:
        raise InputError(
            f"the checkpoint asks for {path}, which is not of this project: if you trust it, build that part yourself "
            "and hand it in, as in DetectionModule.load_from_checkpoint(path, method=…)"
        )
    return found
