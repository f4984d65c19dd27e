"""The commands, end to end on a few drawn images: train with its clean stage, evaluate, evaluate again."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from robustdet.cli.evaluate import evaluate
from robustdet.cli.train import train
from robustdet.evaluation.record import read_records

FEW = [
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=2",
    "validation.attack.steps=1",
    "logger=csv",
]
SMALL_STAGE = [
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=2",
    "validation.attack.steps=1",
    "data.source.train=24",
    "data.source.val=6",
    "data.source.test=6",
    "data.batch_size=4",
    "trainer=cpu",
]
pytestmark = pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")


def stage(paths: DictConfig) -> str:
    overrides = [*SMALL_STAGE, f"paths.data={paths.data}", f"paths.outputs={paths.outputs}"]
    return "warm_start.overrides=[" + ",".join(f'"{override}"' for override in overrides) + "]"


@pytest.mark.slow
def test_an_experiment_trains_its_clean_stage_once_and_is_evaluated(
    compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
):
    plain = compose("train", "experiment=shapes_mtd_warm", *FEW)
    cfg = compose("train", "experiment=shapes_cfr", *FEW, stage(plain.paths))
    checkpoint = train(cfg)
    first = capsys.readouterr().out
    assert "No finished clean stage shapes_std" in first
    run = json.loads((checkpoint.parent.parent / "run.json").read_text(encoding="utf-8"))
    assert run["updates"] == 2
    assert run["environment"]["libraries"]["torch"] == version("torch")
    assert {"train/L_cls", "train/L_loc", "train/L_det", "train/L_aid", "train/L_re", "train/L_kld"} <= run[
        "metrics"
    ].keys()
    assert {"val/AP50_clean", "val/AP50_attacked"} <= run["metrics"].keys()

    train(
        compose("train", "experiment=shapes_mtd_warm", *FEW, stage(plain.paths), f"paths.run={plain.paths.outputs}/b")
    )
    said, commit = capsys.readouterr().out, run["environment"]["commit"]
    assert "Starting from the finished clean stage shapes_std" in said
    assert commit is None or f"final.ckpt, trained at commit {commit[:8]}\n" in said

    evaluation = compose("evaluate", "experiment=shapes_cfr", f"ckpt_path={checkpoint}", "suite=quick", "pictures=2")
    records = evaluate(evaluation)
    folder = checkpoint.parent.parent / "evaluation" / "quick"
    assert [record.attack for record in records] == ["clean", "pgd_cls", "pgd_loc", "worst_case"]
    assert {record.attack: record.map for record in read_records([folder])} == {r.attack: r.map for r in records}
    assert (folder / "detections.png").stat().st_size > 10_000
    assert "Average precision under attack" in capsys.readouterr().out


@pytest.mark.slow
def test_a_finished_run_of_other_settings_is_no_clean_stage(compose: Callable[..., DictConfig], capsys):
    plain = compose("train", "experiment=shapes_std", *FEW)
    train(plain)
    other = stage(plain.paths).replace("trainer.max_steps=2", "trainer.max_steps=3")
    train(compose("train", "experiment=shapes_mtd_warm", *FEW, other, f"paths.run={plain.paths.outputs}/b"))
    assert "No finished clean stage shapes_std" in capsys.readouterr().out


def test_the_wrong_network_is_named(compose: Callable[..., DictConfig], tmp_path: Path):
    checkpoint = train(compose("train", "experiment=shapes_std", *FEW))
    elsewhere = checkpoint.rename(tmp_path / "final.ckpt")  # where no run says what it is
    with pytest.raises(ValueError, match=r"final\.ckpt .* does not fit this network:\n  missing: aid\.trunk"):
        evaluate(compose("evaluate", "experiment=shapes_robustdet", f"ckpt_path={elsewhere}", "suite=quick"))


def test_a_missing_checkpoint_is_named(compose: Callable[..., DictConfig], tmp_path: Path):
    missing = tmp_path / "none.ckpt"
    with pytest.raises(FileNotFoundError, match=r"ckpt_path=.*none\.ckpt does not exist"):
        evaluate(compose("evaluate", "experiment=shapes_std", f"ckpt_path={missing}"))
    with pytest.raises(FileNotFoundError, match=r"warm_start\.ckpt_path=.*none\.ckpt does not exist"):
        train(compose("train", "experiment=shapes_mtd_warm", f"warm_start.ckpt_path={missing}"))
    with pytest.raises(ValueError, match="ckpt_path is needed"):
        evaluate(compose("evaluate", "experiment=shapes_std"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    compose: Callable[..., DictConfig], tmp_path: Path
):
    settings = [
        "experiment=shapes_mtd",
        "warm_start.experiment=null",
        *FEW[1:],
        "trainer.max_steps=8",
        "scheduler.total_steps=8",
        "trainer.val_check_interval=4",
    ]
    straight = train(compose("train", *settings, f"paths.run={tmp_path / 'straight'}"))
    middle = next((tmp_path / "straight" / "checkpoints").glob("step_4*.ckpt"), None)
    first = tmp_path / "first"
    if middle is None:
        train(compose("train", *settings, "trainer.max_steps=4", f"paths.run={first}"))
        middle = first / "checkpoints" / "last.ckpt"
    resumed = train(compose("train", *settings, f"paths.run={tmp_path / 'resumed'}", f"ckpt_path={middle}"))
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in (straight, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
