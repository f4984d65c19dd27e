"""From a node of the config to the object that it describes; what is wrong with the node is the project's own error."""

from __future__ import annotations

from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf.errors import MissingMandatoryValue

from robustdet.errors import InputError, RobustdetError


def instantiate(config: Any, **values: Any) -> Any:
    """Hydra's, but where a target refuses its values, the text is the target's, not that of the machinery.

    Raises RobustdetError: what the target has raised if that was one, else InputError.
    """
    try:
        return hydra.utils.instantiate(config, **values)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key} is missing: give {error.full_key}=…") from error
    except InstantiationException as error:
        reason: BaseException = error
        while isinstance(reason, InstantiationException) and reason.__cause__ is not None:
            reason = reason.__cause__
        if isinstance(reason, RobustdetError):
            raise reason from error
        place = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else ""
        target = config.get("_target_", "") if hasattr(config, "get") else ""
        raise InputError(f"{place or target}: {_said(reason)}") from error


def _said(reason: BaseException) -> str:
    if isinstance(reason, InstantiationException):
        return str(reason).partition("\nfull_key: ")[0]
    return f"{type(reason).__name__}: {reason}" if isinstance(reason, KeyError) else str(reason)
