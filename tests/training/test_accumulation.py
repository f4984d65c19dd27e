"""An update that sums the gradients of several micro-batches (`trainer.accumulate_grad_batches`)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from robustdet.cli.building import build, build_module, build_trainer, prepare
from robustdet.training.module import DetectionModule
from robustdet.types import Batch, StepOutput

RUN = [
    "experiment=shapes_cfr",
    "data.source.train=12",  # of which ten or eleven have objects: five batches
    "data.batch_size=2",
    "warm_start.experiment=null",
    "schedule.updates_per_source=2",
    "trainer.limit_val_batches=0",
    "logger=none",
    "callbacks=none",
]
pytestmark = [pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"), pytest.mark.usefixtures("one_thread")]


class Witness:
    """A method that learns nothing and notes where it was asked and with which random numbers."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def step(self, model: Any, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.seen.append((batch.micro_batch, generator.initial_seed()))
        return StepOutput(next(model.parameters()).sum() * 0, {})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class SaveAfterEveryBatch(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder, self.batches = folder, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.batches += 1
        trainer.save_checkpoint(self.folder / f"{self.batches}.ckpt")


def witnessed(cfg: DictConfig) -> list[tuple[int, int]]:
    prepare(cfg)
    experiment, witness = build(cfg), Witness()
    module = DetectionModule(experiment.model, witness, torch.optim.SGD, torch.optim.lr_scheduler.ConstantLR, cfg.seed)
    build_trainer(cfg, []).fit(module, experiment.data)
    return witness.seen


def test_every_micro_batch_has_its_place_and_its_own_random_numbers(compose: Callable[..., DictConfig]):
    """An epoch has five batches: with four an update its second update is made of one."""
    seen = witnessed(compose("train", *RUN, "trainer.max_steps=4", "+trainer.accumulate_grad_batches=4"))
    assert [place for place, _ in seen] == [0, 1, 2, 3, 0] * 2
    assert len({seed for _, seed in seen}) == 10


def test_a_batch_that_is_an_update_has_the_random_numbers_of_a_first_micro_batch(compose: Callable[..., DictConfig]):
    alone = witnessed(compose("train", *RUN, "trainer.max_steps=3"))
    summed = witnessed(compose("train", *RUN, "trainer.max_steps=3", "+trainer.accumulate_grad_batches=2"))
    assert [place for place, _ in alone] == [0, 0, 0]
    assert alone == summed[::2]


def trained(cfg: DictConfig, folder: Path, ckpt_path: Path | None = None) -> dict[str, Any]:
    """The state at the end of four updates, of two, two, one and two batches."""
    prepare(cfg)
    experiment = build(cfg)
    module = build_module(cfg, experiment)
    trainer = build_trainer(cfg, [SaveAfterEveryBatch(folder)])
    trainer.fit(module, experiment.data, ckpt_path=ckpt_path)
    return {"weights": copy.deepcopy(module.state_dict()), "method": module.method.state_dict()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.slow
def test_a_run_goes_on_from_the_midst_of_an_update_with_the_same_bits(
    compose: Callable[..., DictConfig], tmp_path: Path
):
    cfg = compose("train", *RUN, "trainer.max_steps=4", "+trainer.accumulate_grad_batches=2")
    whole = trained(cfg, tmp_path / "whole")
    pending = {}
    for batches in range(1, 7):
        checkpoint = tmp_path / "whole" / f"{batches}.ckpt"
        state = torch.load(checkpoint, weights_only=True)
        pending[batches] = any(gradient is not None for gradient in state["processes"][0]["gradients"].values())
        if batches in (1, 2, 6):
            assert same(trained(cfg, tmp_path / "resumed", checkpoint), whole), batches
    assert pending == {1: True, 2: False, 3: True, 4: False, 5: False, 6: True}  # an epoch ends after the fifth


def test_sources_are_kept_for_updates_where_these_sum_micro_batches(compose: Callable[..., DictConfig], tmp_path: Path):
    cfg = compose("train", *RUN, "trainer.max_steps=3", "+trainer.accumulate_grad_batches=2")
    sources = trained(cfg, tmp_path)["method"]["schedule"]["sources"]
    assert [(source["batch"]["micro_batch"], source["updates"]) for source in sources] == [
        (0, 1),
        (1, 2),
    ]  # of 3 and 2 updates
    ids = [[target["image_id"] for target in source["batch"]["targets"]] for source in sources]
    assert set(ids[0]).isdisjoint(ids[1])
