"""Many runs by `-m`: folders, the shared clean stage, launchers, and a search that crashes, is resumed and prunes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import hydra
import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, read_write

from robustdet.cli.clean_stage import stage_config
from robustdet.cli.composition import CONF, check
from robustdet.cli.sweeps import SEARCH, objectives, processes, require_same_search
from robustdet.training.pruning import CURVE, MedianPruning
from tests.forks import Spawned
from tests.launchers.commands import ended

FEW = [
    "trainer=cpu",
    "trainer.max_steps=2",
    "trainer.val_check_interval=1",
    "validation.attack.steps=1",
    "callbacks=none",
]
SMALL = [
    *(f"data.source.{split}={count}" for split, count in {"train": 24, "val": 6, "test": 6}.items()),
    "data.batch_size=4",
    "data.eval_batch_size=6",
]
STAGE = "warm_start.overrides=[" + ",".join(f'"{override}"' for override in SMALL) + "]"
SPACE = {"loss.gamma", "loss.beta", "loss.a", "loss.b", "loss.c"}


@pytest.fixture
def command(tmp_path: Path, data_folder: Path) -> Callable[..., Spawned]:
    """``python -m src.train`` with small data, as a user starts it."""

    def run(*arguments: str) -> Spawned:
        paths = [f"paths.outputs={tmp_path}", f"paths.data={data_folder}"]
        return ended("train", *arguments, *FEW, *SMALL, *paths)

    return run


def runs(folder: Path) -> list[dict]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("**/run.json"))]


@pytest.mark.slow
def test_jobs_side_by_side_train_their_clean_stage_once(command: Callable, tmp_path: Path):
    pytest.importorskip("joblib")
    done = command("-m", "experiment=shapes_robustdet", "launcher=joblib", "loss.gamma=0.3,0.6", STAGE)
    assert done.code == 0, done.warned
    jobs = runs(tmp_path / "sweeps")
    assert [[o for o in job["overrides"] if o.startswith("loss")] for job in jobs] == [
        ["loss.gamma=0.3"],
        ["loss.gamma=0.6"],
    ]
    assert len(runs(tmp_path / "shapes_std")) == 1
    said = done.said + done.warned
    assert said.count("No finished clean stage shapes_std") == 1
    assert said.count("Starting from the finished clean stage shapes_std") == 1


@pytest.mark.slow
def test_submitit_runs_every_job_in_a_process_and_folder_of_its_own(command: Callable, tmp_path: Path):
    pytest.importorskip("submitit")
    done = command("-m", "experiment=shapes_std", "launcher=submitit_local", "seed=3,4")
    assert done.code == 0, done.warned
    (sweep,) = (tmp_path / "sweeps" / "shapes_std").iterdir()
    for number, seed in enumerate((3, 4)):
        job = json.loads((sweep / str(number) / "run.json").read_text(encoding="utf-8"))
        assert f"seed={seed}" in job["overrides"]
        assert yaml.safe_load((sweep / str(number) / "config.yaml").read_text(encoding="utf-8"))["seed"] == seed


@pytest.mark.slow
def test_a_search_survives_a_crash_and_is_resumed(command: Callable, tmp_path: Path):
    optuna = pytest.importorskip("optuna")
    search = ["hparams_search=loss_weights", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=6"]
    crash = "optimizer.lr=choice(0.001,-1)"
    what = ["experiment=shapes_cfr", "warm_start.experiment=null", *search]
    done = command(*what, "hydra.sweeper.n_trials=3", crash)
    assert done.code == 0, done.warned
    assert "Failed experiment: optimizer.lr=-1: expected a number" in done.warned + done.said

    def trials() -> list:
        folder = tmp_path / "sweeps" / "shapes_cfr_loss_weights"
        return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db").trials

    finished, crashed = (
        [t for t in trials() if t.state == getattr(optuna.trial.TrialState, s)] for s in ("COMPLETE", "FAIL")
    )
    assert [t.number for t in finished] == [0, 2]
    assert [t.number for t in crashed] == [1]
    assert {t.params["optimizer.lr"] for t in finished} == {0.001}
    jobs = runs(tmp_path / "sweeps")
    assert sorted(t.values for t in finished) == sorted(
        [job["metrics"]["val/AP50_clean"], job["metrics"]["val/AP50_attacked"]] for job in jobs
    )
    assert set(finished[0].params) == SPACE | {"optimizer.lr"}

    again = command(*what, "hydra.sweeper.n_trials=1", crash)
    assert again.code == 0, again.warned
    assert [t.number for t in trials()] == [0, 1, 2, 3]
    assert len(list((tmp_path / "sweeps" / "shapes_cfr_loss_weights").glob("2*"))) == 2

    pilot = command(*what, "hydra.sweeper.n_trials=1", crash, "optimizer.weight_decay=0.1")
    assert pilot.code == 1
    assert "holds trials of a search with other settings:" in pilot.warned
    assert len(trials()) == 4


def test_a_distributed_job_in_an_adaptive_search_is_refused(command: Callable, tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = command("experiment=shapes_std", "hparams_search=loss_weights", "trainer.devices=2")
    assert done.code == 1
    assert "trainer.devices=2 inside an adaptive sweep (OptunaSweeper) is refused" in done.warned
    assert "each with a sweeper of its own that proposes other values" in done.warned
    assert not list(tmp_path.iterdir())


def test_a_search_for_what_nothing_measures_is_refused(command: Callable, tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    few = [argument for argument in FEW if not argument.startswith("validation")]
    whole = ["experiment=shapes_std", "hparams_search=loss_weights", "validation.attack=null", *few]
    done = ended("train", *whole, f"paths.outputs={tmp_path}")
    assert done.code == 1
    assert "validation.attack=null measures no val/AP50_attacked, which this search is to maximise" in done.warned
    assert not list(tmp_path.iterdir())


def search(folder: Path, *overrides: str) -> DictConfig:
    """A search's config as its command composes it."""
    given = ["experiment=shapes_cfr", "hparams_search=loss_weights", f"paths.outputs={folder}", *overrides]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", given, return_hydra_config=True)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_steps=10", "attack.threat.epsilon=4/255", "protocol=authors", "data.source.train=9",
        "data.root=elsewhere", "seed=1", "loss.gamma=0.5", "validation.attack.steps=1", "validation.clean_share=1",
        "warm_start.ckpt_path=std.ckpt", "objectives=[val/AP50_clean]", "callbacks.pruning.others=2",
        "trainer.val_check_interval=7", "debug=limit", "speed=fast",
    ],
)  # fmt: skip
def test_searches_with_other_settings_share_no_study(override: str, tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    require_same_search(search(tmp_path, "tags=[whole]"))
    other = search(tmp_path, override)
    with pytest.raises(SystemExit) as refused:
        require_same_search(other)
    said = str(refused.value).splitlines()
    assert said[0] == f"{other.paths.study} holds trials of a search with other settings:"
    assert "tags=[whole]" in said[1]
    assert override in said[2].replace("'", "")
    require_same_search(search(tmp_path, override, f"paths.study={tmp_path / 'pilot'}"))


def test_a_search_goes_on_with_its_study_whatever_the_place(tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    first = search(tmp_path / "a")
    require_same_search(first)
    known = (Path(first.paths.study) / SEARCH).read_text(encoding="utf-8")
    (tmp_path / "a").rename(tmp_path / "b")
    free = ["trainer.accelerator=cpu", "logger=none", "data.num_workers=3", "hydra.sweeper.n_trials=2", "tags=[x]"]
    free += ["hydra/sweeper/sampler=random", "launcher=joblib", "hydra.sweeper.n_jobs=2", "paths.run=here"]
    again = search(tmp_path / "b", *free)
    require_same_search(again)
    assert again.paths.study != first.paths.study
    assert (Path(again.paths.study) / SEARCH).read_text(encoding="utf-8") == known  # of the first command still


def test_other_values_to_search_over_are_another_search(tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    require_same_search(search(tmp_path))
    with pytest.raises(SystemExit, match="holds trials of a search with other settings"):
        require_same_search(search(tmp_path, "hparams_search=loss_weights_without_cfr"))
    wider = search(tmp_path)
    with read_write(wider.hydra):  # which a command is composed without
        wider.hydra.overrides.task.append("optimizer.lr=interval(0.1,0.2)")
    with pytest.raises(SystemExit, match=r"now .*optimizer\.lr=interval\(0\.1,0\.2\)"):
        require_same_search(wider)


def test_a_study_that_does_not_say_what_it_is_of_is_named(tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    cfg = search(tmp_path)
    file = Path(cfg.paths.study) / SEARCH
    file.parent.mkdir(parents=True)
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(
        SystemExit, match=r"search\.json does not say what the trials of this study have in common: Type"
    ):
        require_same_search(cfg)


@pytest.mark.slow
def test_a_sweep_over_experiments_lands_in_one_folder(command: Callable, tmp_path: Path):
    done = command("-m", "experiment=glob(shapes_at_*)", "debug=fdr")
    assert done.code == 0, done.warned
    (sweep,) = (tmp_path / "sweeps" / "several").iterdir()
    jobs = [
        json.loads((sweep / number / "run.json").read_text(encoding="utf-8"))["experiment"] for number in ("0", "1")
    ]
    assert jobs == ["shapes_at_cls", "shapes_at_loc"]
    assert (sweep / "multirun.yaml").is_file()
    assert [folder.name for folder in tmp_path.iterdir()] == ["sweeps"]


@pytest.mark.parametrize(
    ("trainer", "found"),
    [
        ({"devices": 1}, None),
        ({"devices": "1", "num_nodes": 1}, None),
        ({"devices": [3]}, None),
        ({"devices": [0, 3]}, "trainer.devices=[0, 3]"),
        ({"devices": 2}, "trainer.devices=2"),
        ({"devices": "auto"}, "trainer.devices=auto"),
        ({"devices": 1, "num_nodes": 4}, "trainer.num_nodes=4"),
    ],
)
def test_settings_that_ask_for_several_processes(trainer: dict, found: str | None):
    assert processes(OmegaConf.create(trainer)) == found


def test_what_a_job_returns_to_its_sweeper():
    metrics = {"val/clean": 0.5, "val/attacked": 0.25, "val/broken": float("nan")}
    assert objectives(["val/clean", "val/attacked"], metrics) == [0.5, 0.25]
    assert objectives(["val/attacked"], metrics) == 0.25
    assert objectives(["val/clean", "val/broken", "val/missing"], metrics) == [0.5, None, None]


@pytest.mark.parametrize(
    ("override", "plugin"),
    [
        ("hparams_search=loss_weights", "hydra_optuna_sweeper"),
        ("hparams_search=loss_weights_without_cfr", "hydra_optuna_sweeper"),
        ("launcher=joblib", "hydra_joblib_launcher"),
        ("launcher=submitit_local", "hydra_submitit_launcher"),
        ("launcher=slurm", "hydra_submitit_launcher"),
        ("launcher=ray", "hydra_ray_launcher"),
    ],
)
def test_sweepers_and_launchers_compose(override: str, plugin: str):
    pytest.importorskip(f"hydra_plugins.{plugin}")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [override, "paths.run=run"], return_hydra_config=True)
    group, name = override.split("=")
    assert cfg.hydra.runtime.choices[group] == name
    chosen = cfg.hydra.sweeper if group == "hparams_search" else cfg.hydra.launcher
    assert chosen._target_.startswith(f"hydra_plugins.{plugin}.")


def test_the_clean_stage_of_a_search_knows_nothing_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    given = ["experiment=shapes_cfr", "hparams_search=loss_weights", f"paths.study={tmp_path}", "loss.gamma=0.5"]
    given += [f"paths.outputs={tmp_path}", "seed=7", "trainer=cpu"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [*given, "paths.run=run"], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: Mock(overrides=Mock(task=given)))
    stage = stage_config(cfg)
    assert (stage.name, stage.seed, stage.paths.outputs) == ("shapes_std", 7, str(tmp_path))
    assert "study" not in stage.paths


def wandb_sweep() -> dict:
    return yaml.safe_load((CONF / "wandb_sweep.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("end", ["min", "max"])
def test_every_key_of_the_wandb_sweep_composes(end: str):
    sweep = wandb_sweep()
    given = [f"{key}={value[end]}" for key, value in sweep["parameters"].items()]
    given += [part for part in sweep["command"] if "=" in part]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [*given, "paths.run=run"])
    check(cfg, "train")
    assert {f"loss.{key}": value for key, value in cfg.loss.items() if key != "_target_"} == {
        key: value[end] for key, value in sweep["parameters"].items()
    }
    assert sweep["metric"]["name"] in cfg.objectives
    assert sweep["command"][:4] == ["${env}", "python", "-m", "${program}"]


def test_the_wandb_sweep_searches_the_same_space_as_optuna():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", ["hparams_search=loss_weights"], return_hydra_config=True)
    params = cfg.hydra.sweeper.params
    kinds = {"uniform": "interval({min}, {max})", "log_uniform_values": "tag(log, interval({min}, {max}))"}
    assert params.keys() == SPACE
    assert params == {
        key: kinds[value["distribution"]].format(**value) for key, value in wandb_sweep()["parameters"].items()
    }


def trainer_at(step: int, values: list[float]) -> Mock:
    trainer = Mock(spec=pl.Trainer)
    trainer.state, trainer.strategy = Mock(fn="fit"), Mock()
    trainer.strategy.reduce_boolean_decision = lambda decision, all: decision
    trainer.callback_metrics = dict(zip(("clean", "attacked"), map(torch.tensor, values), strict=True))
    trainer.global_step, trainer.max_steps, trainer.is_global_zero, trainer.should_stop = step, 30, True, False
    return trainer


def validated(folder: Path, name: str, step: int, values: list[float], others: int = 2) -> bool:
    """Whether the run ``name``, validated once after ``step`` updates, is told to stop."""
    pruning = MedianPruning(["clean", "attacked"], str(folder / "now" / name), str(folder), others)
    trainer = trainer_at(step, values)
    pruning.on_validation_end(trainer, Mock(spec=pl.LightningModule))
    assert pruning.pruned == trainer.should_stop
    return pruning.pruned


def test_a_run_behind_the_median_in_everything_is_pruned(tmp_path: Path):
    assert not validated(tmp_path, "a", 10, [0.5, 0.5])
    assert not validated(tmp_path, "b", 10, [0.1, 0.1])  # one other is too few to judge by
    assert not validated(tmp_path, "c", 10, [0.1, 0.4])  # medians 0.3 and 0.3: ahead in one
    assert validated(tmp_path, "d", 10, [0.05, 0.3])  # medians 0.1 and 0.4
    assert not validated(tmp_path, "e", 20, [0.0, 0.0])  # nobody else has come as far
    assert not validated(tmp_path, "f", 10, [0.1, 0.35])  # equal to the median is not behind
    for name in ("g", "h", "i"):  # the last update: there is nothing left to save
        assert not validated(tmp_path, name, 30, [0.1, 0.1] if name == "i" else [0.5, 0.5])
    assert len((tmp_path / "now" / "d" / CURVE).read_text(encoding="utf-8").splitlines()) == 1


def test_a_line_that_another_run_is_still_writing_is_not_read(tmp_path: Path):
    validated(tmp_path, "a", 10, [0.5, 0.5], others=1)
    (tmp_path / "now" / "a" / CURVE).write_text('{"step": 10, "values": [0.5, 0.', encoding="utf-8")
    assert not validated(tmp_path, "b", 10, [0.1, 0.1], others=1)


def test_pruning_needs_somebody_to_compare_with(tmp_path: Path):
    with pytest.raises(ValueError, match="others is 0, expected 1 or more runs"):
        MedianPruning(["clean"], "run", str(tmp_path), 0)


def test_a_pruned_run_says_so_and_is_no_clean_stage(
    compose: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    from robustdet.cli.train import train

    study = tmp_path / "outputs" / "sweeps" / "shapes_std_loss_weights"
    for rival in ("0", "1", "2", "3", "4"):
        (study / "earlier" / rival).mkdir(parents=True)
        (study / "earlier" / rival / CURVE).write_text('{"step": 1, "values": [1.0, 1.0]}\n', encoding="utf-8")
    settings = [*FEW, "callbacks=default", "hparams_search=loss_weights", f"paths.run={study}/now/5"]
    checkpoint = train(compose("train", "experiment=shapes_std", *settings))
    run = json.loads((checkpoint.parent.parent / "run.json").read_text(encoding="utf-8"))
    assert run["pruned"]
    assert run["updates"] == 1
    assert run["incomplete"] == "it was pruned"
    assert "After 1 updates below the median of 5 other runs" in capsys.readouterr().out
