"""SIGTERM ends a command with the signal's exit code, and what is left is said."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from robustdet.cli.evaluate import evaluate
from robustdet.cli.stopping import signal_counts, stop_when_told
from robustdet.cli.sweeps import GRID, ONE_BY_ONE, SweepLeft, jobs_of_grid
from robustdet.cli.train import train
from robustdet.evaluation.attacked import AttackedImages
from robustdet.runs.run import Run
from robustdet.training.module import DetectionModule
from tests.launchers.commands import FEW


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")
def test_an_evaluation_that_is_told_to_stop_goes_on_later(
    compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    checkpoint = train(compose("train", *FEW, "experiment=shapes_std", "trainer.max_steps=1", "logger=none"))
    cfg = [f"ckpt_path={checkpoint}", "suite=quick", "suite.max_images=4", "data.eval_batch_size=2", "pictures=0"]
    original = AttackedImages.images

    def told(self: AttackedImages, *arguments: Any) -> Any:
        if self.name == "pgd_loc":
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(AttackedImages, "images", told)
        with pytest.raises(SystemExit, match="143"):
            evaluate(compose("evaluate", *cfg))
    folder = checkpoint.parent.parent / "evaluation" / "quick"
    assert "Told to stop: there are no records yet" in capsys.readouterr().out
    assert not (folder / "records").exists()
    evaluate(compose("evaluate", *cfg))
    said = capsys.readouterr()
    assert "clean: 2 of 4, pgd_cls: 2 of 4, pgd_loc: 0 of 4" in said.out
    assert [line.split()[:2] for line in said.err.splitlines() if line.startswith("evaluating")] == [
        ["evaluating", "6/6"]
    ]


@pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")
def test_what_follows_a_run_is_not_begun_where_its_last_update_is_told_to_stop(
    compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    original = DetectionModule.training_step

    def told(self: DetectionModule, *arguments: Any) -> Any:
        if self.trainer.global_step == self.trainer.max_steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(DetectionModule, "training_step", told)
    stage = 'warm_start.overrides=["trainer.max_steps=2","trainer.val_check_interval=2","data.batch_size=4"]'
    warm = ["experiment=shapes_mtd_warm", *FEW, "warm_start.experiment=shapes_std", stage]
    cfg = compose("train", *warm, "logger=none", "trainer.max_steps=4")
    with pytest.raises(SystemExit, match="143"):
        train(cfg)
    said = capsys.readouterr().out
    assert "Finished shapes_std after 2 updates" in said
    assert "Told to stop: this run has ended, and nothing goes on after it" in said
    assert not Run(Path(cfg.paths.run)).final.exists()


def test_a_signal_counts_for_more_than_what_it_breaks_off_stumbles_over():
    def broken_off() -> None:
        try:
            stop_when_told()
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise AttributeError("something half done")

    with pytest.raises(SystemExit, match="143"), signal_counts():
        broken_off()
    with pytest.raises(AttributeError, match="on its own"), signal_counts():  # an old signal is no excuse
        raise AttributeError("on its own")


def test_a_sweep_that_is_ended_says_what_is_left(capsys: pytest.CaptureFixture[str]):
    given = ["experiment=shapes_std", "loss.gamma=0.3,0.6", "seed=range(0,2)"]
    assert jobs_of_grid(given) == [f"loss.gamma={gamma} seed={seed}" for gamma in (0.3, 0.6) for seed in (0, 1)]

    def config(**hydra: Any) -> DictConfig:
        kinds = {"sweeper": {"_target_": GRID}, "launcher": {"_target_": ONE_BY_ONE}}
        return OmegaConf.create({"hydra": {**kinds, "overrides": {"task": given}, **hydra}})

    sweep = SweepLeft()
    sweep.on_multirun_start(config())
    sweep.on_job_end(config(job={"num": 0}), SimpleNamespace())
    sweep.on_multirun_end(config())
    sweep.say_left()
    left = ["  1: loss.gamma=0.3 seed=1", "  2: loss.gamma=0.6 seed=0", "  3: loss.gamma=0.6 seed=1"]
    assert capsys.readouterr().err.splitlines() == ["The sweep was ended: 3 of 4 jobs are not done", *left]
