"""Lightning's own switches, as its users know them: each does what it says, or is refused before anything starts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from robustdet.cli.building import build_trainer, epochs_between_looks
from robustdet.cli.evaluate import evaluate
from robustdet.cli.train import train
from robustdet.data.datamodule import DetectionDataModule
from robustdet.defences.standard import Standard
from robustdet.runs.run import BEGUN
from robustdet.training.progress import TrainingProgress
from tests.launchers.commands import FEW

RUN = ["experiment=shapes_std", *FEW, "callbacks.checkpoint.save_top_k=-1", "callbacks.routing.step_sizes=[8/255]"]
LIGHTNING = "pytorch_lightning.callbacks"
pytestmark = [
    pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.usefixtures("one_thread"),
]
Compose = Callable[..., DictConfig]


def rows(run: Path, column: str) -> list[int]:
    """The updates after which this was logged, in order."""
    with (run / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get(column)]


def saved(run: Path) -> list[int]:
    return sorted(int(file.stem.removeprefix("step_")) for file in (run / "checkpoints").glob("step_*.ckpt"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.val_check_interval=0.5"], [2, 4, 7, 9]),  # an epoch has five batches
        (["trainer.val_check_interval=1.0"], [5, 10]),
        pytest.param(["trainer.val_check_interval=null"], [5, 10], marks=pytest.mark.slow),
        pytest.param(
            ["trainer.val_check_interval=null", "trainer.check_val_every_n_epoch=1"], [5, 10], marks=pytest.mark.slow
        ),
        pytest.param(
            ["trainer.val_check_interval=1.0", "trainer.check_val_every_n_epoch=2"], [10], marks=pytest.mark.slow
        ),
        pytest.param(
            ["trainer.val_check_interval=2", "trainer.check_val_every_n_epoch=1"], [2, 4, 7, 9], marks=pytest.mark.slow
        ),
        (["trainer.val_check_interval=4", "+trainer.accumulate_grad_batches=2"], [2, 4, 7, 9]),  # of 2, 2 and 1 batch
    ],
    ids=["half", "one", "null", "epoch", "two epochs", "within", "accumulated"],
)
def test_a_run_saves_after_every_validation(compose: Compose, overrides: list[str], expected: list[int]):
    train(compose("train", *RUN, "trainer.max_steps=11", *overrides))
    run = Path(compose("train").paths.run)
    assert saved(run) == expected
    assert len(rows(run, "val/AP50_clean")) == len(expected) + 1  # the last update is looked at in any case
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["updates"] == 11


@pytest.mark.slow
def test_a_time_between_validations(compose: Compose):
    train(compose("train", *RUN, "trainer.max_steps=11", "trainer.val_check_interval=00:00:00:00"))
    assert saved(Path(compose("train").paths.run)) == list(range(1, 12))


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
@pytest.mark.parametrize("limit", [0, 1])
def test_a_run_without_validation_saves_as_often(compose: Compose, limit: int, monkeypatch: pytest.MonkeyPatch):
    if limit:  # they are allowed, but there are none
        monkeypatch.setattr(DetectionDataModule, "val_dataloader", lambda self: [])
    settings = ["trainer.val_check_interval=2", f"trainer.limit_val_batches={limit}"]
    train(compose("train", *RUN, "trainer.max_steps=5", *settings))
    assert saved(Path(compose("train").paths.run)) == [2, 4]


def test_a_checkpoint_with_a_cadence_of_its_own_keeps_it(compose: Compose):
    cadence = ["trainer.val_check_interval=3", "callbacks.checkpoint.every_n_train_steps=2"]
    train(compose("train", *RUN, "trainer.max_steps=6", *(f"+{c}" if "every" in c else c for c in cadence)))
    assert saved(Path(compose("train").paths.run)) == [2, 4, 6]


def test_lightnings_callbacks(compose: Compose, tmp_path: Path):
    """What is watched never gets better than infinity: the second look stops the run; the best one is kept."""
    best = {"_target_": f"{LIGHTNING}.ModelCheckpoint", "monitor": "val/AP50_clean", "mode": "max"}
    best |= {"dirpath": str(tmp_path / "best"), "save_top_k": "1"}
    early = {"_target_": f"{LIGHTNING}.EarlyStopping", "monitor": "train/loss", "min_delta": "1e9", "patience": "1"}
    added = [f"+callbacks.theirs.{key}={value}" for key, value in best.items()]
    added += [f"+callbacks.early.{key}={value}" for key, value in early.items()]
    train(compose("train", *RUN, "trainer.max_steps=40", "trainer.val_check_interval=2", *added))
    run = Path(compose("train").paths.run)
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["updates"] == 4
    assert saved(run) == [2, 4]
    assert len(list((tmp_path / "best").iterdir())) == 1


def progress_of(cfg: DictConfig) -> list[type]:
    return [type(one) for one in build_trainer(cfg, []).callbacks if isinstance(one, ProgressBar | TrainingProgress)]


def test_whose_bar_is_shown(compose: Compose):
    assert progress_of(compose("train")) == [TrainingProgress]
    for bar in (RichProgressBar, TQDMProgressBar):
        assert progress_of(compose("train", f"+callbacks.bar._target_={LIGHTNING}.{bar.__name__}")) == [bar]
    (theirs,) = progress_of(compose("train", "+trainer.enable_progress_bar=true"))
    assert issubclass(theirs, ProgressBar)
    assert progress_of(compose("train", "+trainer.enable_progress_bar=false")) == []


def test_the_line_of_a_training_counts_updates(compose: Compose, capsys: pytest.CaptureFixture[str]):
    cfg = compose("train", *RUN, "trainer.max_steps=4", "+trainer.accumulate_grad_batches=3")
    train(cfg)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training")]
    assert [line.split()[1] for line in lines] == ["4/4"]


def test_several_loggers_at_once(compose: Compose):
    pytest.importorskip("tensorboard")
    kinds = (CSVLogger, TensorBoardLogger)
    cfg = compose("train", *RUN, "logger=[csv,tensorboard]", "trainer.max_steps=2", "trainer.val_check_interval=2")
    assert [isinstance(one, kind) for one, kind in zip(build_trainer(cfg, []).loggers, kinds, strict=True)] == [
        True
    ] * 2
    train(cfg)
    run = Path(cfg.paths.run)
    assert rows(run, "val/AP50_clean") == [1]
    assert list((run / "tensorboard").glob("events.*"))


def test_one_pass_of_everything(compose: Compose):
    cfg = compose("train", *RUN, "+trainer.fast_dev_run=true", "+trainer.profiler=simple")
    train(cfg)
    run = Path(cfg.paths.run)
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["updates"] == 1
    assert saved(run) == []


def test_the_same_batches_again_and_again(compose: Compose, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []
    original = Standard.step

    def noted(self: Standard, model: Any, batch: Any, generator: torch.Generator) -> Any:
        seen.append([target.image_id for target in batch.targets])
        return original(self, model, batch, generator)

    monkeypatch.setattr(Standard, "step", noted)
    train(compose("train", *RUN, "+trainer.overfit_batches=2", "trainer.max_steps=6", "trainer.val_check_interval=3"))
    assert seen[:2] * 3 == seen
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=null"], r"^seed=null: expected a whole number"),
        (["seed=-1"], r"^seed=-1: expected a whole number"),
        (["trainer.precision=16-true"], r"16-true has no scaling of the loss"),
        (
            ["callbacks=averaged", "trainer.precision=bf16-true"],
            r"bf16-true rounds away what an update moves an average",
        ),
        (["trainer.precision=half"], r"^trainer: Precision 'half' is invalid"),
        (["trainer.val_check_interval=1.5"], r"^trainer: .*invalid value 1\.5 for val_check_interval"),
        (["trainer.val_check_interval=soon"], r"^trainer: Invalid time format"),
        (["trainer.val_check_interval=00:00:01:00", "trainer.devices=2"], r"is a time, and with trainer\.devices=2"),
    ],
)
def test_what_cannot_work_is_refused_before_a_clean_stage(compose: Compose, overrides: list[str], message: str):
    cfg = compose("train", "experiment=shapes_mtd_warm", *overrides)
    assert cfg.warm_start.experiment is not None
    with pytest.raises(ValueError, match=message):
        train(cfg)
    assert not Path(cfg.paths.outputs).exists()
    assert not (Path(cfg.paths.run) / BEGUN).exists()


def test_an_evaluation_needs_a_seed(compose: Compose):
    with pytest.raises(ValueError, match=r"^seed=null: expected a whole number"):
        evaluate(compose("evaluate", "seed=null", "ckpt_path=none.ckpt"))


def test_an_interval_in_batches_or_time_is_counted_across_epochs(compose: Compose):
    for interval, epochs in (("7", None), ("'00:00:01:00'", None), ("0.5", 1), ("1.0", 1), ("null", 1)):
        assert epochs_between_looks(compose("train", f"trainer.val_check_interval={interval}").trainer) == epochs


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_precisions_train_and_judge(compose: Compose, precision: str):
    cfr = ["experiment=shapes_cfr", *FEW, "trainer.max_steps=2", "trainer.val_check_interval=2"]
    checkpoint = train(compose("train", *cfr, f"trainer.precision={precision}"))
    few = ["suite=quick", "pictures=0", "suite.max_images=2", "data.source.test=4"]
    records = evaluate(compose("evaluate", f"ckpt_path={checkpoint}", f"trainer.precision={precision}", *few))
    assert {record.attack for record in records} >= {"clean", "pgd_cls", "pgd_loc"}
