"""What an update says of itself, and when."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader

from robustdet.training.module import DetectionModule
from robustdet.types import Batch, StepOutput
from tests.detection.conftest import build_detector, make_target


class Telling:
    """A method that learns nothing and notes at which of its steps it was asked for more."""

    def __init__(self) -> None:
        self.steps = 0
        self.asked: list[int] = []

    def step(self, model: Any, batch: Batch, generator: torch.Generator) -> StepOutput:
        number, self.steps = self.steps, self.steps + 1

        def diagnostics() -> dict[str, torch.Tensor]:
            self.asked.append(number)
            return {"looked": torch.tensor(float(number))}

        return StepOutput(next(model.parameters()).sum() * 0, {}, diagnostics)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Heard(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.looked: list[float] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.looked += [value for name, value in metrics.items() if name == "train/looked"]


@pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped", "ignore:You defined a `validation_step`")
@pytest.mark.parametrize(("summed", "interval", "logged"), [(1, 2, [1, 3, 5]), (1, 4, [3]), (2, 2, [3]), (1, 0, [])])
def test_diagnostics_are_made_where_an_update_is_logged(summed: int, interval: int, logged: list[int]):
    method, heard = Telling(), Heard()
    module = DetectionModule(build_detector("tiny_ssd").train(), method, torch.optim.SGD, ConstantLR, 0)
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    steps = {"max_steps": 6 // summed, "log_every_n_steps": interval, "accumulate_grad_batches": summed}
    trainer = pl.Trainer(accelerator="cpu", logger=heard, **steps, **quiet)
    batch = Batch(torch.rand(1, 3, 96, 96), [make_target([], image_id="a")])
    trainer.fit(module, DataLoader([batch] * 6, batch_size=None))
    assert heard.looked == logged
    assert {number // summed for number in method.asked} == {number // summed for number in logged}
