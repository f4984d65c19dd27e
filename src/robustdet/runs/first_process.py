"""What must be decided once for all processes of a distributed run: the first decides, and tells the others.

Who waits for whom depends on who starts the processes. torchrun and srun start all of them: they join at once, and the
word is sent. Lightning starts the others only when it trains, as copies of this command: until then there is nobody to
send to, and the word is left in the environment that they will inherit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only

from robustdet.errors import StateError

WORDS = "ROBUSTDET_WORDS"  # environment variable: what the first process has said so far, as a JSON list


def is_first() -> bool:
    """Whether this process is the first of its run, or alone."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


@rank_zero_only
def say(text: str) -> None:
    """Prints once for all processes of a run. (A wrapped ``print`` could not be sent to Ray's workers.)"""
    print(text, flush=True)


class FirstProcess:
    """The first of the processes that ``trainer`` works in. All of them have to ask the same questions in order."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer
        self.asked = 0
        self._copy = WORDS in os.environ and not is_first()  # started by Lightning in the middle of it all
        if is_first():
            os.environ.pop(WORDS, None)  # what another run of this process has said

    def says(self, decide: Callable[[], Any]) -> Any:
        """What ``decide`` returns in the first process: plain data. What it raises there is raised in all."""
        self.asked += 1
        if self.trainer.world_size == 1:
            return decide()
        told = json.loads(os.environ.get(WORDS, "[]")) if self._copy else []
        if self.asked <= len(told):
            return told[self.asked - 1]
        environment = self.trainer.strategy.cluster_environment  # type: ignore[attr-defined]
        if not (dist.is_initialized() or environment.creates_processes_externally):
            word = decide()
            os.environ[WORDS] = json.dumps([*json.loads(os.environ.get(WORDS, "[]")), word])
            return word
        if not dist.is_initialized():
            self.trainer.strategy.setup_environment()
        word, error = None, None
        if is_first():
            try:
                word = decide()
            except Exception as raised:
                error = raised
        word, why = self.trainer.strategy.broadcast((word, error and f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        if why is not None:
            raise StateError(f"the first process of this run failed: {why}")
        return word
