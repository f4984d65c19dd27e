"""The real wandb, offline: what a training and an evaluation logged is read back from its file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb
from omegaconf import DictConfig
from PIL import Image

from robustdet.cli.evaluate import evaluate
from robustdet.cli.train import train
from robustdet.training.wandb_run import WandbRun
from tests.launchers.commands import FEW
from tests.training.wandb_file import config, history, records

pytestmark = [
    pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # wandb's own service and files
]
RUN = [
    *FEW,
    "experiment=shapes_robustdet",
    "logger=wandb",
    "logger.wandb.mode=offline",
    "tags=[tiny,trial]",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "callbacks.panels.images=2",
    "callbacks.panels.threshold=0",
]


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")


def only_file(folder: Path) -> Path:
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    return file


def exit_code(file: Path) -> int:
    """wandb's own process writes it last, a moment after the run was ended."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for record in records(file):
            if record.HasField("exit"):
                return record.exit.exit_code
        time.sleep(0.2)
    raise AssertionError(f"{file} has no end")


@pytest.mark.slow
def test_a_training_and_an_evaluation_are_runs_of_their_own(compose: Callable[..., DictConfig]):
    checkpoint = train(compose("train", *RUN, "logger.wandb.log_model=true"))
    assert wandb.run is None
    folder = checkpoint.parent.parent
    file = only_file(folder)
    identifier = (folder / "wandb_run.txt").read_text(encoding="utf-8").strip()
    assert file.name == f"run-{identifier}.wandb"

    (run,) = [record.run for record in records(file) if record.HasField("run")][:1]
    assert (run.project, run.job_type, run.run_id, run.display_name) == (
        "robustdet",
        "train",
        identifier,
        "shapes_robustdet",
    )
    assert list(run.tags) == ["tiny", "trial"]
    settings = config(file)
    assert settings["loss"]["beta"] == 0.75
    assert settings["attack"]["threat"]["epsilon"] == "8/255"

    rows = history(file)
    logged = {key: value for row in rows for key, value in row.items()}
    assert {f"train/{part}" for part in ("L_cls", "L_loc", "L_det", "L_aid", "loss")} <= logged.keys()
    assert {"val/AP50_clean", "val/AP50_attacked", "routing/kernel_divergence"} <= logged.keys()
    assert {f"routing/aid_separation_step_{size}" for size in (1, 2, 4, 8)} <= logged.keys()
    assert {f"val/routing/{kind}/kernel_{k}" for kind in ("clean", "attacked") for k in range(4)} <= logged.keys()
    assert sum(logged["val/routing/clean/kernel_0"]["values"]) == 7  # images
    assert {f"val/AP50_clean/{name}" for name in ("circle", "square")} & logged.keys()

    files = file.parent / "files"
    table = json.loads((files / logged["val/AP50_by_class"]["path"]).read_text(encoding="utf-8"))
    assert table["columns"] == ["class", "AP50_clean", "AP50_attacked"]
    assert len(table["data"]) == 6
    for kind in ("clean", "attacked"):
        curves = [key for key in logged if key.startswith(f"val/precision_recall/AP50_{kind}")]
        assert curves
        pictures = logged[f"val/{kind}"]
        assert pictures["count"] == len(pictures["all_boxes"]) == 2
        boxes = json.loads((files / pictures["all_boxes"][0]["ground_truth"]["path"]).read_text(encoding="utf-8"))[
            "box_data"
        ]
        assert boxes[0]["domain"] == "pixel"
        assert 0 <= boxes[0]["position"]["minX"] < boxes[0]["position"]["maxX"] <= 96
        found = json.loads((files / pictures["all_boxes"][0]["predictions"]["path"]).read_text(encoding="utf-8"))[
            "box_data"
        ]
        assert all(0 <= box["scores"]["score"] <= 1 for box in found)
    added = Image.open(files / logged["val/perturbation"]["filenames"][0])
    levels = {level for _, pixel in added.getcolors(1 << 20) for level in pixel}
    assert 127 - 81 <= min(levels) < max(levels) <= 128 + 81  # 10 x 8/255 around mid-grey
    assert any(record.artifact.type == "model" for record in records(file) if record.HasField("artifact"))

    line = [argument for argument in RUN if argument.startswith(("data.", "logger"))]
    cfg = compose(
        "evaluate", "experiment=shapes_robustdet", "suite=quick", *line, f"ckpt_path={checkpoint}", "pictures=0"
    )
    found = evaluate(cfg)
    assert wandb.run is None
    file = only_file(checkpoint.parents[1] / "evaluation" / "quick")
    (run,) = [record.run for record in records(file) if record.HasField("run")][:1]
    assert run.job_type == "evaluate"
    assert run.run_id != identifier
    logged = {key: value for row in history(file) for key, value in row.items()}
    table = json.loads((file.parent / "files" / logged["evaluate/table"]["path"]).read_text(encoding="utf-8"))
    assert {row[0]: row[1] for row in table["data"]} == {record.attack: record.map for record in found}
    assert logged["evaluate/pgd_cls"] == found[1].map


@pytest.mark.slow
def test_a_crash_ends_the_run_and_the_next_job_in_the_folder_goes_on_in_it(
    compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
):
    longer = [*RUN, "trainer.max_steps=4"]
    cfg = compose("train", *longer)

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("robustdet.training.module.DetectionModule.on_validation_epoch_end", fail)
        with pytest.raises(RuntimeError, match="the disk is full"):
            train(cfg)
    assert wandb.run is None
    folder = Path(cfg.paths.run)
    first = only_file(folder)
    assert exit_code(first) == 1
    train(compose("train", *longer))
    names = {file.name for file in (folder / "wandb").glob("offline-run-*/*.wandb")}
    assert names == {first.name}  # one id: `wandb sync` makes one run of both files


def test_wandb_decides_whether_it_is_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[dict] = []
    monkeypatch.setattr(wandb, "init", lambda **settings: asked.append(settings))
    for key in (None, "0" * 40):
        with monkeypatch.context() as patch:
            patch.setenv("WANDB_API_KEY", key) if key else patch.delenv("WANDB_API_KEY", raising=False)
            _ = WandbRun(tmp_path).experiment
            _ = WandbRun(tmp_path, mode="disabled").experiment
    assert ["mode" in settings for settings in asked] == [False, True, False, True]


def test_without_a_login_it_is_said_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match=r"(?s)wandb login.*WANDB_MODE=offline logs to the run's folder"):
        _ = WandbRun(tmp_path).experiment


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (wandb.errors.CommError("Timed out"), r"Timed out\n.*WANDB_MODE=offline"),
        (RuntimeError("Could not determine home directory."), r"home directory\. .*set HOME to a folder"),
        (RuntimeError("something else"), r"^something else$"),
    ],
)
def test_a_server_out_of_reach_and_a_missing_home_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, answer: str
):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(RuntimeError, match=answer):
        _ = WandbRun(tmp_path).experiment
