"""Weights averaged over updates: what the average is, where it stands for the detector, and what goes on without it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor

from robustdet.analysis.table import summary
from robustdet.cli.evaluate import evaluate
from robustdet.cli.train import train
from robustdet.errors import InputError
from robustdet.interop.checkpoints import load_checkpoint
from robustdet.runs.run import Run
from robustdet.training.averaging import MovingAverage, move
from robustdet.training.module import DetectionModule
from robustdet.training.routing import RoutingDiagnostics
from tests.composing import composing_in
from tests.launchers.commands import FEW, Pair
from tests.training import told

pytestmark = [
    pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.usefixtures("one_thread"),
]
VALIDATED = ["trainer.max_steps=7", "trainer.val_check_interval=3"]  # after 3, 6 and 7
PLAIN = [*FEW, "experiment=shapes_robustdet", *VALIDATED]
RUN = [*PLAIN, "callbacks=averaged", "callbacks.averaging.decay=0.6"]
DECAYS = [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16]  # of the second update and later: (1 + n) / (10 + n)
Compose = Callable[..., DictConfig]
State = dict[str, Tensor]


def state(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)


def assert_same(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def detector(module: pl.LightningModule) -> State:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@dataclass
class Straight:
    """``RUN`` from beginning to end, in a folder that nobody else may write to."""

    final: Path
    updated: list[State]  # what learns, after each update
    validated: list[State]  # the detector in the first batch that was validated
    watched: list[State]

    @property
    def state(self) -> dict[str, Any]:
        return state(self.final)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Straight:
    updated: list[State] = []
    validated: list[State] = []
    watched: list[State] = []
    update, watch = MovingAverage.on_train_batch_end, RoutingDiagnostics.on_validation_epoch_end
    validate = DetectionModule.validation_step

    def after_update(callback: MovingAverage, trainer: pl.Trainer, module: pl.LightningModule, *rest: Any) -> None:
        updated.append(detector(module))
        update(callback, trainer, module, *rest)

    def in_validation(module: DetectionModule, *arguments: Any) -> None:
        if not validated:
            validated.append(detector(module))
        validate(module, *arguments)

    def in_diagnostics(callback: RoutingDiagnostics, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        watched.append(detector(module))
        watch(callback, trainer, module)

    compose = composing_in(tmp_path_factory.mktemp("straight"), data_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MovingAverage, "on_train_batch_end", after_update)
        patch.setattr(DetectionModule, "validation_step", in_validation)
        patch.setattr(RoutingDiagnostics, "on_validation_epoch_end", in_diagnostics)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        final = train(compose("train", *RUN, "callbacks.checkpoint.save_top_k=-1"))
        torch.set_num_threads(threads)
    return Straight(final, updated, validated, watched)


@pytest.mark.slow
def test_the_average_is_that_of_a_slow_loop_and_learning_goes_on_as_without(compose: Compose, straight: Straight):
    averaged, plain = straight.state, state(train(compose("train", *PLAIN)))
    assert_same(averaged["current_model_state"], plain["state_dict"])
    expected = {name: tensor.double() for name, tensor in straight.updated[0].items()}
    for decay, current in zip(DECAYS, straight.updated[1:], strict=True):
        expected = {name: decay * old + (1 - decay) * current[name] for name, old in expected.items()}
    for name, tensor in averaged["state_dict"].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(tensor, plain["state_dict"][name])  # counts of batches


def test_the_decay_is_bounded_and_what_is_the_same_stays():
    average, current, constant = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([1 / 3])
    for made in (1, 10**6):
        move(0.9, [average, constant], [current, constant.clone()], made)
    assert average.item() == pytest.approx(0.9 * (2 / 11 * 1 + 9 / 11 * 2) + 0.1 * 2)
    assert constant.item() == torch.tensor(1 / 3).item()
    counts = torch.tensor([3])
    move(0.9, [counts], [torch.tensor([8])], 1)
    assert counts.item() == 8


def test_the_average_is_what_is_validated_and_watched(straight: Straight):
    after_three = state(straight.final.with_name("step_3.ckpt"))["state_dict"]
    assert_same(straight.validated[0], after_three)
    assert_same(straight.watched[0], after_three)
    assert_same(straight.watched[-1], straight.state["state_dict"])  # after the last update, too


@pytest.mark.slow
def test_a_run_that_died_goes_on_from_a_state_that_a_validation_saved(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, straight: Straight
):
    """It was saved while the average stood in the place of what learns, which is what goes on."""
    original = DetectionModule.training_step

    def dies(module: DetectionModule, *arguments: Any) -> Any:
        if module.global_step == 4:
            raise RuntimeError("out of memory")
        return original(module, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionModule, "training_step", dies)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(compose("train", *RUN))
    assert torch.load(Path(compose("train").paths.run) / "checkpoints" / "last.ckpt")["global_step"] == 3
    resumed = state(train(compose("train", *RUN)))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert_same(straight.state[key], resumed[key])


@pytest.mark.slow
@pytest.mark.parametrize(("hook", "at"), [("training_step", 4), ("validation_step", 6)])
def test_a_run_that_is_stopped_goes_on_with_both(
    hook: str, at: int, compose: Compose, monkeypatch: pytest.MonkeyPatch, straight: Straight
):
    with monkeypatch.context() as patch:
        told.to_stop(patch, hook, at)
        with pytest.raises(SystemExit, match="143"):
            train(compose("train", *RUN))
    resumed = state(train(compose("train", *RUN)))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert_same(straight.state[key], resumed[key])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_finished_run_is_gone_on_with_from_what_learns(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    few = ["trainer.max_steps=5", "scheduler=constant"]
    finished = train(compose("train", *RUN, *few, f"paths.run={tmp_path / 'finished'}"))
    began: list[State] = []
    original = DetectionModule.on_train_start

    def look(module: DetectionModule) -> None:
        began.append(detector(module))
        original(module)

    monkeypatch.setattr(DetectionModule, "on_train_start", look)
    longer = train(compose("train", *RUN, *few, "trainer.max_steps=6", f"ckpt_path={finished}"))
    assert_same(began[0], state(finished)["current_model_state"])
    assert load_checkpoint(longer).averaged == "an exponential moving average over 6 updates, decay 0.6"


def test_an_averaged_state_is_no_state_of_a_training_that_averages_nothing(compose: Compose, tmp_path: Path):
    final = train(compose("train", *RUN, "trainer.max_steps=1"))
    with pytest.raises(
        InputError, match="has weights averaged over updates, and this training averages none: go on wi"
    ):
        train(compose("train", *PLAIN, f"ckpt_path={final}", f"paths.run={tmp_path / 'plain'}"))


def test_whoever_takes_the_weights_takes_the_average_and_is_told(
    compose: Compose, straight: Straight, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    final = shutil.copytree(straight.final.parents[1], tmp_path / "run") / "checkpoints" / "final.ckpt"
    average = {name.removeprefix("model."): tensor for name, tensor in state(final)["state_dict"].items()}
    assert_same(load_checkpoint(final).state_dict, average)
    assert_same(dict(DetectionModule.load_from_checkpoint(final).model.state_dict()), average)
    few = ["suite=quick", "suite.max_images=2", "pictures=0", "~suite.attacks.pgd_loc", "suite.attacks.pgd_cls.steps=1"]
    records = evaluate(compose("evaluate", *few, f"ckpt_path={final}"))
    words = "an exponential moving average over 7 updates, decay 0.6"
    assert {record.run.averaged for record in records} == {words}
    assert {record.run.training_recipe is None for record in records} == {False}
    assert f"The weights in final.ckpt are {words}" in capsys.readouterr().out
    assert summary(records).notes == [f"shapes_robustdet: the weights are {words}"]
    best = load_checkpoint(final.with_name("best.ckpt"))
    assert best.chosen
    assert best.averaged.startswith("an exponential moving average over ")


def test_a_clean_stage_is_averaged_where_it_is_told_to_be(compose: Compose, monkeypatch: pytest.MonkeyPatch):
    few = [line for line in FEW if not line.startswith("warm_start")]
    stage = [*(line for line in few if line.startswith(("data.", "trainer."))), "trainer.max_steps=4"]
    listed = ",".join(f'"{line}"' for line in [*stage, "callbacks=averaged"])
    cfg = compose(
        "train", "experiment=shapes_mtd_warm", *few, "trainer.max_steps=1", f"warm_start.overrides=[{listed}]"
    )
    warmed: list[State] = []
    original = DetectionModule.on_train_start

    def look(module: DetectionModule) -> None:
        warmed.append(dict(detector(module)))
        original(module)

    monkeypatch.setattr(DetectionModule, "on_train_start", look)
    final = train(cfg)
    stages = [run for run in Run.below(cfg.paths.outputs) if run.config["name"] == "shapes_std"]
    assert_same(warmed[-1], state(stages[0].final)["state_dict"])
    assert (load_checkpoint(stages[0].final).averaged == "", load_checkpoint(final).averaged) == (False, "")


@pytest.mark.slow
def test_two_processes_average_what_one_does(compose: Compose, tmp_path: Path):
    settings = [*FEW, "experiment=shapes_std", "trainer.max_steps=4", "trainer.val_check_interval=4", "optimizer=sgd"]
    settings += ["callbacks=averaged"]
    alone = state(train(compose("train", *settings)))
    pair, threads = Pair(), torch.get_num_threads()
    try:
        pair.run(train, compose("train", *settings, f"paths.run={tmp_path / 'two'}", "trainer=ddp_cpu"))
    finally:
        pair.other.shutdown()
        torch.set_num_threads(threads)
    together = state(tmp_path / "two" / "checkpoints" / "final.ckpt")
    assert together["averaged"] == alone["averaged"]
    for name, tensor in alone["state_dict"].items():
        torch.testing.assert_close(together["state_dict"][name], tensor, rtol=1e-3, atol=1e-5)
