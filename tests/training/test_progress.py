"""What is to be seen of a suite's evaluation while it runs: in a log file, and on a terminal."""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch

from robustdet import progress
from robustdet.evaluation.pipeline import Seen, SuiteEvaluator
from robustdet.training.progress import TrainingProgress
from robustdet.training.testing import EvaluationModule
from robustdet.types import Batch
from tests.detection.conftest import build_detector
from tests.evaluation import scenes

ATTACKS = ("clean", "pgd_cls", "dag")


class Attacked:
    """Stands for `AttackedImages`: calls ``during`` while it is at work."""

    def __init__(self, during: Callable[[], None]) -> None:
        self.during = during

    def missing(self, contents: Sequence[str]) -> list[int]:
        return list(range(len(contents)))

    def evaluate(self, detector: Any, batch: Batch, contents: Sequence[str]) -> int:
        self.during()
        return len(batch)


def evaluate(bar: TrainingProgress, during: Callable[[], None]) -> SuiteEvaluator:
    """One batch of 32 images, all that there is; ``during`` is called while an attack is at work."""
    suite = SuiteEvaluator.__new__(SuiteEvaluator)
    suite._looked = True  # at what the detector promises
    suite.attacks, suite.seen = {name: Attacked(during) for name in ATTACKS}, Seen()  # type: ignore[misc]
    module = EvaluationModule(torch.nn.Identity(), suite, None)
    trainer = Mock(pl.Trainer, num_test_batches=[1], is_global_zero=True)
    targets = [scenes.target(str(image), [], []) for image in range(32)]
    batch = Batch(torch.zeros(32, 3, 4, 4), targets)
    bar.on_test_start(trainer, module)
    suite.evaluate_batch(build_detector("tiny_ssd", num_classes=1).eval(), batch)
    bar.on_test_batch_end(trainer, module, None, batch, 0)
    bar.on_test_end(trainer, module)
    return suite


def test_a_log_names_each_attack_and_ends_with_one_last_line(monkeypatch: pytest.MonkeyPatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def eleven_seconds() -> None:
        now[0] += 11

    suite = evaluate(TrainingProgress(), eleven_seconds)
    lines = [line.split("  ")[:2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [["evaluating clean", "1/3"], ["evaluating pgd_cls", "2/3"], ["evaluating dag", "3/3"]]
    with suite.working("clean", 32):  # the bar is gone: whoever looks on sees nothing
        pass
    assert capsys.readouterr().err == ""


@contextmanager
def terminal() -> Iterator[tuple[TextIO, int]]:
    """A pseudo-terminal: what a program writes to, and the descriptor from which its screen is read."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on Windows")
    screen, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as written:
        yield written, screen
    os.close(screen)


def test_a_terminals_bar_advances_by_attack_though_the_batch_is_the_only_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    shown = ""
    with terminal() as (written, screen):
        monkeypatch.setattr(sys, "stderr", written)

        def look() -> None:
            nonlocal shown
            bar.bars["test"].live.refresh()
            while select.select([screen], [], [], 0.1)[0]:
                shown += os.read(screen, 65536).decode(errors="replace")

        bar = TrainingProgress()
        evaluate(bar, look)
    seen = re.findall(r"evaluating (\w+) .*?(\d+)%", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))
    assert dict(seen) == {"clean": "0", "pgd_cls": "33", "dag": "67"}


def test_what_the_last_validation_found_stands_beside_the_loss(monkeypatch: pytest.MonkeyPatch, capsys):
    """From the first update of a run that goes on, and anew after each validation."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    trainer = Mock(pl.Trainer, is_global_zero=True, global_step=3, estimated_stepping_batches=5, callback_metrics={})
    module = Mock(pl.LightningModule, logged={"val/AP50_clean": 0.5, "val/AP50_attacked": 0.125, "lr": 0.1})
    bar, batch = TrainingProgress(), Batch(torch.zeros(2, 3, 4, 4), [scenes.target(name, [], []) for name in "ab"])
    bar.on_train_start(trainer, module)
    for step, found in ((4, {"val/AP50_clean": torch.tensor(0.75), "val/AP50_mix": torch.tensor(0.75)}), (5, {})):
        now[0] += 11
        trainer.global_step = step
        bar.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.5)}, batch, 0)
        trainer.callback_metrics = found
        bar.on_validation_end(trainer, module)
    bar.on_train_end(trainer, module)
    lines = [line.split("  ")[2:-2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [["loss 1.500", "clean AP50 0.500", "attacked AP50 0.125"], ["loss 1.500", "clean AP50 0.750"]]
