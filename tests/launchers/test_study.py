"""A study: many commands in their order, each done once, stopped and gone on with, and its records copied."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from robustdet.cli import study as module
from robustdet.cli.composition import CONF, composed
from robustdet.cli.study import (
    IncompleteStudyError,
    copy_records,
    jobs_of,
    require_commands,
    seconds_left,
    study,
    study_of,
)
from robustdet.errors import InputError, MissingFileError, StateError
from robustdet.evaluation.record import read_record, write_records
from robustdet.runs.run import Run
from tests.launchers.commands import FEW
from tests.slowness import quick


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMANDS", dict.fromkeys(("train", "evaluate"), "tests.launchers.scripted"))
    monkeypatch.setattr(module, "copy_records", lambda folder, target: None)
    monkeypatch.setattr(module, "require_commands", lambda jobs: {})


def config(folder: Path, trainings: dict[str, Any], side_by_side: int = 1, **evaluations: Any) -> DictConfig:
    return OmegaConf.create(
        {
            "study": {
                "name": "small",
                "title": "A small one",
                "results": str(folder / "results"),
                "trainings": {name: {"seeds": [0], "minutes": 60, **fields} for name, fields in trainings.items()},
                "evaluations": {name: {"minutes": 30, **fields} for name, fields in evaluations.items()},
            },
            "paths": {"outputs": str(folder)},
            "data_root": None,
            "trainings": [],
            "side_by_side": side_by_side,
            "dry": False,
        }
    )


def calls(folder: Path) -> dict[str, int]:
    return {
        str(file.parent.relative_to(folder / "study" / "small")): len(file.read_text(encoding="utf-8").splitlines())
        for file in sorted(folder.rglob("called.txt"))
    }


@pytest.mark.usefixtures("scripted")
def test_each_is_done_once_and_what_failed_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cfg = config(
        tmp_path,
        {"good": {"overrides": [], "seeds": [0, 1]}, "bad": {"overrides": ["does=fails"]}},
        side_by_side=2,
        paper={"overrides": []},
    )
    with pytest.raises(IncompleteStudyError) as raised:
        study(cfg)
    assert "bad, seed 0 ended with 3: no room left; see " in str(raised.value)
    assert "bad, seed 0: paper is left out, for it needs bad, seed 0" in str(raised.value)
    once = {"good/seed0": 1, "good/seed0/evaluation/paper": 1, "good/seed1": 1, "good/seed1/evaluation/paper": 1}
    assert calls(tmp_path) == once | {"bad/seed0": 1}
    said = capsys.readouterr().out
    assert "A small one: 6 jobs, 0 of them done; 2 at a time\nAbout 2:15:00 to go" in said
    with pytest.raises(IncompleteStudyError):
        study(cfg)
    assert calls(tmp_path) == once | {"bad/seed0": 2}
    assert "6 jobs, 4 of them done" in capsys.readouterr().out


@pytest.mark.usefixtures("scripted")
def test_what_was_told_otherwise_is_not_taken_for_done(tmp_path: Path):
    study(config(tmp_path, {"good": {"overrides": []}}))
    with pytest.raises(InputError, match=r"holds another train of good, seed 0 .*\n  then .*\n  now  lr=1 seed=0 "):
        study(config(tmp_path, {"good": {"overrides": ["lr=1"]}}))
    (tmp_path / "study" / "small" / "good" / "seed0" / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"study\.json does not say what was done there, remove it to have that done"):
        study(config(tmp_path, {"good": {"overrides": []}}))


@pytest.mark.usefixtures("scripted")
def test_a_training_that_ended_without_its_study_is_done_and_its_evaluations_follow(tmp_path: Path):
    cfg = config(tmp_path, {"orphan": {"overrides": []}}, paper={"overrides": []})
    training, evaluation = jobs_of(cfg)
    training.remember(0.0, done=False)  # and then the study was killed
    assert not training.is_done
    Run(training.folder).end({"experiment": "orphan", "checkpoint": "final.ckpt", "incomplete": "stopped"})
    assert not training.is_done
    Run(training.folder).end({"experiment": "orphan", "checkpoint": "final.ckpt"})
    assert training.is_done
    assert seconds_left([training, evaluation], 1) == 30 * 60  # its time is not known, and no pace is made of it
    study(cfg)
    assert calls(tmp_path) == {"orphan/seed0/evaluation/paper": 1}


def test_records_of_others_in_the_same_folder_are_not_a_studys(tmp_path: Path):
    known = sorted((CONF.parent / "results").rglob("clean.json"))[:2]
    own, another = (read_record(file) for file in known)
    write_records([own], tmp_path / "paper" / "evaluation" / "paper" / "records")  # as the study's command writes them
    write_records([another], tmp_path / "paper" / "records")  # as `src.evaluate ckpt_path=… suite=paper` does
    copy_records(tmp_path / "paper", tmp_path / "results")
    assert [read_record(file) for file in (tmp_path / "results").rglob("*.json")] == [own]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("trainings.one.seeds=[]", "study.trainings.one.seeds: List should have at least 1 item"),
        ("~trainings.one.minutes", "study.trainings.one.minutes: Field required"),
        ("trainings.one.minutes=long", "study.trainings.one.minutes: Input should be a valid number"),
        ("trainings.one.seed=1", "study.trainings.one.seed: Unexpected keyword argument"),
        ("trainings={}", "study.trainings: Dictionary should have at least 1 item"),
        ("trainings.one.seeds=[0, 0]", "study.trainings.one.seeds: [0, 0] has one twice"),
        ("trainings.one.seeds=[1.5]", "study.trainings.one.seeds.0: Input should be a valid integer"),
        (
            "trainings.one.overrides=experiment=shapes_std",
            "study.trainings.one.overrides: Input should be a valid list",
        ),
        ("trainings.one.overrides=[experiment=shapes_sdt]", "one, seed 0: In 'common': Could not find"),
        ("evaluations.paper.overrides=[suite=quik]", "Could not find 'suite/quik'"),
        ("trainings.one.overrides=[bogus.key=1]", "one, seed 0: Could not override 'bogus.key'"),
        (
            "trainings.one.overrides=[trainer.max_stepz=1]",
            "'trainer.max_stepz' is no key of this config (did you mean 'trainer.max_steps'?)",
        ),
        ("trainings.one.overrides=[loss.gamma=1]", "one, seed 0: loss.gamma=1: nothing reads this, for the method is"),
        ("name=a/b", "study.name: String should match pattern"),
        ("trainings.one.overrides=[paths.run=here]", r"trainings.one: paths.run=here is what the study says itself"),
        ("evaluations.paper.overrides=[ckpt_path=mine]", r"evaluations.paper: ckpt_path=mine is what the study says"),
    ],
)
def test_what_is_wrong_in_a_study_is_told_before_anything_begins(change: str, said: str, tmp_path: Path):
    cfg = config(tmp_path, {"one": {"overrides": []}}, paper={"overrides": []})
    key, _, value = change.partition("=")
    if key.startswith("~"):
        node = OmegaConf.select(cfg.study, key[1:].rpartition(".")[0])
        del node[key.rpartition(".")[2]]
    elif value == "{}":
        cfg.study.trainings = {}
    else:
        OmegaConf.update(cfg.study, key, yaml.safe_load(value), force_add=True)
    with pytest.raises(InputError, match=re.escape(said)):
        study(cfg)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("scripted")
def test_two_processes_do_not_work_on_one_study(tmp_path: Path):
    cfg = config(tmp_path, {"one": {"overrides": []}})
    folder = tmp_path / "study" / "small"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(StateError, match=f"another process works on the study in {folder}"):
        study(cfg)
    assert calls(tmp_path) == {}
    study(cfg)
    assert calls(tmp_path) == {"one/seed0": 1}


@pytest.mark.usefixtures("scripted")
def test_the_time_left_follows_what_was_measured(tmp_path: Path):
    jobs = jobs_of(config(tmp_path, {"one": {"overrides": []}, "two": {"overrides": []}}))
    assert seconds_left(jobs, 1) == 2 * 3600
    jobs[0].remember(90 * 60, done=True)
    assert seconds_left(jobs, 1) == pytest.approx(1.5 * 3600)
    assert seconds_left(jobs, 2) == pytest.approx(0.75 * 3600)


@pytest.mark.usefixtures("scripted")
def test_a_dry_one_does_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
):
    cfg = config(tmp_path / "with blank", {"one": {"overrides": ["a=1"]}})
    data = tmp_path_factory.mktemp("some where")
    cfg.dry, cfg.data_root, cfg.trainings = True, str(data), ["trainer=gpu"]
    study(cfg)
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "60 min  one, seed 0: train " in line)
    told = shlex.split(line.partition(": train ")[2])
    assert told[:2] == ["a=1", "seed=0"]
    assert told[-2:] == [f"data.root='{data}'", "trainer=gpu"]
    assert told[2] == f"hydra.run.dir='{tmp_path}/with blank/study/small/one/seed0'"
    assert not list(tmp_path.rglob("*"))
    for job in jobs_of(cfg):
        job.remember(60, done=True)
    study(cfg)  # for what is done already nobody needs them


@pytest.mark.slow
def test_a_signal_stops_the_commands_that_work(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from tests.launchers import test_study as t; m = t.module\n"
        "m.COMMANDS = dict.fromkeys(('train', 'evaluate'), 'tests.launchers.scripted')\n"
        "m.require_commands = lambda jobs: {}\n"
        "m.study(t.config(Path(sys.argv[1]), {'one': {'overrides': ['does=waits']}}))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        folder = tmp_path / "study" / "small" / "one" / "seed0"
        for _ in range(600):
            if (folder / "ready").exists():
                break
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Told to stop: what is at work saves its state; the same command goes on" in said
    memory = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert not memory["done"]
    assert 0 < memory["seconds"] < 30


@pytest.mark.slow
def test_a_real_one_leaves_records_that_name_no_place(tmp_path: Path, data_folder: Path):
    few = [*FEW, "trainer.max_steps=1", "logger=none", "trainer=cpu"]
    cfg = config(
        tmp_path,
        {"std": {"overrides": ["experiment=shapes_std", *few]}},
        quick={"overrides": ["suite=quick", "suite.max_images=2", "suite.epsilon=4/255", "pictures=0"]},
    )
    cfg.data_root = str(data_folder / "study")
    study(cfg)
    folder = tmp_path / "results" / "small" / "std" / "seed0" / "evaluation" / "quick" / "records"
    record = read_record(folder / "pgd_cls.json")
    assert (record.run.experiment, record.run.suite, record.threat) == ("shapes_std", "quick_eps_4", "L∞ 4/255")
    assert record.attack_settings["step_size"] == "1/255"
    assert all(str(tmp_path) not in file.read_text(encoding="utf-8") for file in folder.glob("*.json"))


@pytest.mark.parametrize(
    "name", quick(sorted(file.stem for file in (CONF / "study").glob("*.yaml")), lambda name: name == "speed")
)
def test_every_command_of_every_study_composes_and_names_its_row(name: str, tmp_path: Path):
    cfg = composed("study", [f"study={name}", f"paths.outputs={tmp_path}", "data_root=data"])
    jobs = jobs_of(cfg)
    assert len({job.name for job in jobs}) == len({job.folder for job in jobs}) == len(jobs)
    assert {job.after for job in jobs if job.command == "evaluate"} == {job.name for job in jobs if job.after is None}
    require_commands(jobs)
    rows = {job.folder.parent.name: job for job in jobs if job.after is None}
    assert list(rows) == list(study_of(cfg).trainings)
    assert all(composed(job.command, job.arguments[:-3]).name.endswith(row) for row, job in rows.items())


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_data_that_are_not_there_are_told_before_anything_begins(root: str | None, tmp_path: Path):
    cfg = config(tmp_path, {"one": {"overrides": ["experiment=voc_mobile_std", f"paths.data={tmp_path}"]}})
    cfg.data_root = None if root is None else str(tmp_path / root)
    with pytest.raises(MissingFileError) as raised:
        study(cfg)
    assert str(raised.value).startswith("one, seed 0: No VOC2007 and no VOC2012 in ")
    assert f" in {tmp_path / (root or 'voc')}: looked there" in str(raised.value)
    assert str(raised.value).endswith("\nIn a study data_root=PATH says data.root for all")
    assert not list(tmp_path.rglob("*"))
