"""Object detectors under adversarial attack: trained, attacked, measured. The public functions are in `robustdet.api`.

Importing this costs nothing: PyTorch, Lightning and Hydra are imported by the first function that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustdet.api import LoadedDetector, as_torchvision, attack, detect, evaluate, load_detector

__version__ = "0.1.0"
__all__ = ["LoadedDetector", "__version__", "as_torchvision", "attack", "detect", "evaluate", "load_detector"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from robustdet import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
