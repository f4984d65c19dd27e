"""A run that is killed at any moment, or told to go, and continued, ends with the bits of one that was left alone."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from robustdet.cli.clean_stage import identify
from robustdet.cli.resume import Plan, planned
from robustdet.cli.train import begin, train
from robustdet.runs.run import BEGUN, Run
from robustdet.training import preemption
from robustdet.training.module import DetectionModule
from tests.launchers.commands import FEW, start

RUN = [
    *FEW,
    "experiment=shapes_cfr",
    "trainer.max_steps=7",
    "trainer.val_check_interval=3",
    "schedule.updates_per_source=3",
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.usefixtures("one_thread"),
]


Configured = Callable[..., DictConfig]


@pytest.fixture
def configured(compose: Callable[..., DictConfig]) -> Configured:
    """``configured(folder, …)``: the settings of a run in a folder under outputs, with overrides."""
    base = compose("train", *RUN)

    def of(folder: str, *overrides: str) -> DictConfig:
        run = f"paths.run={Path(base.paths.outputs) / folder}"
        return cast(DictConfig, OmegaConf.merge(base, OmegaConf.from_dotlist([run, *overrides])))

    return of


STRAIGHT: list[Path] = []


@pytest.fixture
def straight(compose: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run that nobody interrupted; made once."""
    if not STRAIGHT:
        run = tmp_path_factory.mktemp("straight") / "run"
        STRAIGHT.append(train(compose("train", *RUN, f"paths.run={run}")))
    return STRAIGHT[0]


def steps(folder: Path) -> list[int]:
    """Of the rows with a loss in metrics.csv, complete lines only."""
    file = folder / "csv" / "metrics.csv"
    if not file.is_file():
        return []
    lines = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [int(row["step"]) for row in csv.DictReader(lines) if row.get("train/loss")]


def curve(folder: Path) -> list[tuple[str, ...]]:
    with (folder / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        return [tuple(sorted(f"{key} {value}" for key, value in row.items() if value)) for row in csv.DictReader(file)]


def wait_for(condition: Callable[[], bool], process, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.said
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def command_line(cfg: DictConfig, run: Path) -> list[str]:
    return [
        *RUN,
        "trainer=cpu",
        f"paths.data={cfg.paths.data}",
        f"paths.outputs={cfg.paths.outputs}",
        f"paths.run={run}",
    ]


@pytest.mark.slow
def test_a_killed_run_goes_on_in_its_folder_and_ends_with_the_same_bits(
    compose: Callable[..., DictConfig], straight: Path, capsys: pytest.CaptureFixture[str]
):
    cfg = compose("train", *RUN)
    run = Path(cfg.paths.outputs) / "killed"
    process = start("train", *command_line(cfg, run))
    wait_for(lambda: 4 in steps(run), process)  # an epoch has five updates or six; checkpoints are after 3 and 6
    process.send(signal.SIGKILL)
    process.wait()
    assert (run / BEGUN).is_file()
    assert not (run / "run.json").exists()

    resumed = train(compose("train", *RUN, "ckpt_path=last", f"paths.run={run.parent / 'new'}"))
    assert f"Going on with the run in {run}: {run / 'checkpoints' / 'last.ckpt'}" in capsys.readouterr().out
    assert resumed == run / "checkpoints" / "final.ckpt"
    assert_same(resumed, straight)
    assert curve(run) == curve(straight.parent.parent)
    assert not (run / BEGUN).exists()
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["updates"] == 7


@pytest.mark.slow
def test_a_run_that_ends_around_validations_makes_up_for_them(
    configured: Configured, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Told to stop just before the first, it stops after it; it crashes in the second; the last update is its last."""

    def train_until(hook: str, updates: int, event: Callable[[], None]) -> Path:
        original = getattr(DetectionModule, hook)

        def interrupted(module: DetectionModule, *arguments: Any) -> Any:
            if module.global_step == updates:
                event()
            return original(module, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(DetectionModule, hook, interrupted)
            return train(configured("ends"))

    def crash() -> None:
        raise RuntimeError("the disk is full")

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(preemption, "requeue_slurm_job", lambda: pytest.fail("SIGTERM asks for no new start"))
    with pytest.raises(SystemExit, match="143"):
        train_until("training_step", 2, stop)
    assert "Told to stop: the state after 3 updates is in " in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="the disk is full"):
        train_until("on_validation_epoch_end", 6, crash)
    with pytest.raises(SystemExit, match="143"):  # the run has ended, and what follows it is not begun
        train_until("training_step", 6, stop)
    run = Run(Path(configured("ends").paths.run))
    assert run.ended is not None
    resumed = run.final
    assert_same(resumed, straight)
    assert curve(resumed.parent.parent) == curve(straight.parent.parent)


@pytest.mark.slow
def test_slurms_signal_saves_and_the_job_goes_on_when_it_is_started_again(
    compose: Callable[..., DictConfig],
    straight: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """SLURM is played: its environment, and an `scontrol` that writes down what it is asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "asked"}\n', encoding="utf-8")
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "42", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    cfg = compose("train", *RUN)
    line = [argument for argument in command_line(cfg, Path()) if not argument.startswith("paths.run=")]
    job = f"42_{hashlib.sha256(chr(10).join(line).encode()).hexdigest()[:6]}"  # and its command
    run = Path(cfg.paths.outputs) / cfg.name / job
    process = start("train", *line, **slurm)
    wait_for(lambda: 4 in steps(run), process)
    process.send(signal.SIGUSR1)
    assert process.wait() == 128 + signal.SIGUSR1, process.warned
    assert "Told to stop: the state after" in process.said
    assert (tmp_path / "asked").read_text(encoding="utf-8") == "requeue 42\n"
    assert (run / BEGUN).is_file()

    assert_same(train(compose("train", *RUN, f"paths.run={run}")), straight)
    assert f"Going on with the run in {run}" in capsys.readouterr().out
    assert curve(run) == curve(straight.parent.parent)


def continued(cfg: DictConfig) -> Path | None:
    """The checkpoint that a command would go on from; ``cfg`` then names the folder that it would work in."""
    with ExitStack() as held:
        plan = planned(cfg, held)
    cfg.paths.run = plan.folder
    return None if plan.state is None else Path(plan.state)


def mark_unfinished(cfg: DictConfig, state_of: str | None = None) -> None:
    what = identify(cfg)
    begin(Run(Path(cfg.paths.run)), cfg, Plan(what.run, what.recipe, None, cfg.paths.run, None, state_of))


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_which_run_goes_on(configured: Configured, capsys: pytest.CaptureFixture[str]):
    outputs = Path(configured("new").paths.outputs)
    with pytest.raises(FileNotFoundError, match=r"ckpt_path=last: no unfinished run of shapes_cfr with these settings"):
        continued(configured("new", "ckpt_path=last"))
    for number, folder in enumerate(("old", "newer", "other")):
        unfinished = configured(folder, *(["seed=7"] if folder == "other" else []))
        mark_unfinished(unfinished)
        os.utime(outputs / folder / BEGUN, (number, number))
    resumed = configured("new", "ckpt_path=last")
    assert continued(resumed) is None
    assert resumed.paths.run == str(outputs / "newer")
    assert f"Going on with the run in {outputs / 'newer'}: from its beginning" in capsys.readouterr().out
    for folder in ("newer", "old"):
        (outputs / folder / BEGUN).unlink()
    with pytest.raises(FileNotFoundError, match=r"with other settings there are .*other"):
        continued(configured("new", "ckpt_path=last"))

    file = outputs / "other" / "checkpoints" / "step_4.ckpt"
    touch(file)
    same = configured("new", "seed=7", f"ckpt_path={file}")
    assert continued(same) == file
    assert same.paths.run == str(outputs / "other")
    elsewhere = configured("new", f"ckpt_path={file}")
    assert continued(elsewhere) == file
    assert elsewhere.paths.run == str(outputs / "new")
    assert "A new run that starts from the state in" in capsys.readouterr().out


def test_a_command_that_started_from_a_file_goes_on_with_its_own_run(configured: Configured, tmp_path: Path):
    file = tmp_path / "elsewhere" / "checkpoints" / "final.ckpt"
    touch(file)
    again = configured("mine", f"ckpt_path={file}")
    assert continued(again) == file
    mark_unfinished(again)
    assert continued(again) == file  # killed before its first checkpoint
    own = Path(again.paths.run) / "checkpoints" / "last.ckpt"
    touch(own)
    assert continued(again) == own
    file.unlink()
    assert continued(again) == own
    assert again.paths.run == str(own.parent.parent)


@pytest.mark.parametrize("start_from_file", [False, True])
def test_no_run_starts_in_the_folder_of_another(start_from_file: bool, configured: Configured, tmp_path: Path):
    file = tmp_path / "elsewhere" / "checkpoints" / "final.ckpt"
    touch(file)
    given = [f"ckpt_path={file}"] if start_from_file else []
    outputs = Path(configured("new").paths.outputs)
    mark_unfinished(configured("killed", "seed=7"))
    touch(outputs / "killed" / "checkpoints" / "last.ckpt", outputs / "unknown" / "checkpoints" / "last.ckpt")
    touch(outputs / "finished" / "checkpoints" / "final.ckpt", outputs / "finished" / "run.json")
    for folder, text in {
        "finished": "a finished run, which is not overwritten",
        "killed": "an unfinished run of shapes_cfr with other settings",
        "unknown": "checkpoints of an unknown run",
    }.items():
        with pytest.raises(FileExistsError, match=f"{folder} holds {text}: choose another paths.run"):
            continued(configured(folder, *given))
