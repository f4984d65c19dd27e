"""A training that is told to stop, as a cluster does."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from robustdet.training.module import DetectionModule


def to_stop(patch: pytest.MonkeyPatch, hook: str, at: int) -> None:
    """SIGTERM comes in this hook of the module, after ``at`` updates."""
    original = getattr(DetectionModule, hook)

    def interrupted(module: DetectionModule, *arguments: Any) -> Any:
        if module.global_step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(module, *arguments)

    patch.setattr(DetectionModule, hook, interrupted)
