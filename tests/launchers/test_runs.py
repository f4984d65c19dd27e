"""Runs as commands make them: whose clean stage they may be, where they lie, who works on them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from robustdet.cli.building import bare_trainer
from robustdet.cli.clean_stage import identify
from robustdet.cli.composition import UnknownKeyError, check, run_folder
from robustdet.cli.evaluate import training_of
from robustdet.cli.larger_batch import enlarge
from robustdet.cli.train import train
from robustdet.runs.run import Run, RunAtWorkError, finished
from tests.launchers.commands import FEW as SMALL
from tests.launchers.commands import finish, start

FEW = [*SMALL, "trainer.max_steps=2", "trainer.val_check_interval=2"]
pytestmark = pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")
EARLY = (
    "+callbacks.early={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/AP50_clean, mode: max, "
    "patience: 0, min_delta: 1.0}"
)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["+trainer.fast_dev_run=true"], "trainer.fast_dev_run is a trial"),
        (["+trainer.max_time='00:00:00:00'", "trainer.max_steps=400"], r"it made \d+ of 400 updates"),
        (["trainer.max_steps=40", "trainer.val_check_interval=1", EARLY], r"it made \d+ of 40 updates"),
    ],
    ids=["fast_dev_run", "max_time", "early stopping"],
)
@pytest.mark.filterwarnings("ignore:.*max_time")
def test_a_run_that_is_not_what_its_config_says_is_nobodys_clean_stage(
    overrides: list[str], reason: str, compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
):
    cfg = compose("train", "experiment=shapes_std", *FEW, *overrides)
    run = Run(train(cfg).parent.parent)
    assert re.search(f"No other run will start from it, for {reason}", capsys.readouterr().out)
    assert re.fullmatch(reason, run.ended["incomplete"])
    assert finished(cfg.paths.outputs, run.ended["identity"]) is None
    assert training_of(run.final) == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint", "ignore:The dirpath has changed")
def test_what_began_with_anothers_state_is_no_seed_and_no_clean_stage(
    compose: Callable[..., DictConfig], tmp_path: Path
):
    """Not even after an interruption, when it goes on with a state of its own."""
    zero = train(compose("train", "experiment=shapes_std", *FEW, f"paths.run={tmp_path / 'zero'}"))
    more = ["seed=1", "trainer.max_steps=5", "trainer.val_check_interval=1"]
    folder = Path(compose("train").paths.outputs) / "one"
    cfg = compose("train", "experiment=shapes_std", *FEW, *more, f"ckpt_path={zero}", f"paths.run={folder}")
    one = Run(train(cfg).parent.parent)
    assert one.folder == folder
    assert one.ended["incomplete"] == f"it began with the state in {zero}"
    (folder / "run.json").unlink()
    one.begin({"experiment": cfg.name, "identity": one_identity(cfg), "state_of": str(zero)}, OmegaConf.to_yaml(cfg))
    again = compose("train", "experiment=shapes_std", *FEW, *more, "ckpt_path=last")
    assert Run(train(again).parent.parent).ended["incomplete"] == f"it began with the state in {zero}"


def one_identity(cfg: DictConfig) -> str:
    return identify(cfg).run


def test_a_run_that_is_at_work_is_never_joined(compose: Callable[..., DictConfig]):
    cfg = compose("train", "experiment=shapes_std", *FEW)
    run = Run(Path(cfg.paths.outputs) / "mine")
    run.begin({"experiment": cfg.name, "identity": identify(cfg).run}, OmegaConf.to_yaml(cfg, resolve=True))
    with run.at_work():
        for given in ([], ["ckpt_path=last"]):
            again = compose("train", "experiment=shapes_std", *FEW, f"paths.run={run.folder}", *given)
            with pytest.raises(RunAtWorkError, match=rf"{run.folder} is the folder of a run that is at work \(process"):
                train(again)


@pytest.mark.slow
def test_three_that_start_at_once_have_three_folders(compose: Callable[..., DictConfig]):
    cfg = compose("train")
    few = [*FEW, "trainer.max_steps=1", "trainer.val_check_interval=1", "validation.max_images=2", "trainer=cpu"]
    paths = [f"paths.{name}={cfg.paths[name]}" for name in ("data", "outputs")]
    identify(compose("train", "experiment=shapes_std", *FEW))  # the data are drawn
    three = [start("train", "experiment=shapes_std", *few, *paths) for _ in range(3)]
    said = [finish(one) for one in three]
    assert len({re.search(r"writing to (\S+)", text)[1] for text in said}) == 3
    assert len(list(Path(cfg.paths.outputs).glob("shapes_std/*/run.json"))) == 3


def test_a_slurm_job_finds_its_folder_again_and_other_commands_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setattr("sys.argv", ["train", "experiment=shapes_std", "seed=0"])
    folder = run_folder(str(tmp_path))
    assert Path(folder).name.startswith("42_")
    assert run_folder(str(tmp_path)) == folder
    (Path(folder)).mkdir()
    (Path(folder) / "run.json").touch()  # finished: the same command once more in this allocation
    assert run_folder(str(tmp_path)) == f"{folder}_2"
    monkeypatch.setattr("sys.argv", ["train", "experiment=shapes_std", "seed=1"])
    assert run_folder(str(tmp_path)) not in (folder, f"{folder}_2")
    monkeypatch.delenv("SLURM_JOB_ID")
    assert len({run_folder(str(tmp_path)) for _ in range(5)}) == 5


def test_a_larger_batch_follows_its_rule_and_says_so(
    compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
):
    cfg = compose("train", "experiment=voc_std", "larger_batch=8")
    images, rate, milestones = cfg.data.batch_size, cfg.optimizer.lr, list(cfg.scheduler.milestones)
    cfg.trainer.max_steps, cfg.trainer.val_check_interval = 1001, 100
    enlarge(cfg)
    assert (cfg.data.batch_size, cfg.optimizer.lr) == (8 * images, 8 * rate)
    assert (cfg.trainer.max_steps, cfg.trainer.val_check_interval) == (126, 13)
    assert cfg.scheduler.milestones == [one // 8 for one in milestones]
    assert f"larger_batch=8: {images} -> {8 * images} images an update, learning rate" in capsys.readouterr().out
    for wrong in ("0", "-1", "1.5", "two"):
        with pytest.raises(UnknownKeyError, match=rf"larger_batch='?{wrong}'?: expected a whole number, 1 or more"):
            check(compose("train", "experiment=voc_std", f"larger_batch={wrong}"), "train")


def test_nothing_starts_from_a_clean_stage_that_ended_early(compose: Callable[..., DictConfig]):
    short = 'warm_start.overrides=["+trainer.max_time=00:00:00:00","trainer.max_steps=400","data.batch_size=4"]'
    few = [line for line in FEW if not line.startswith("warm_start")]
    cfg = compose("train", "experiment=shapes_mtd_warm", *few, short)
    with pytest.raises(RuntimeError, match=r"the clean stage shapes_std is not what its config says.*of 400 updates"):
        train(cfg)
    assert Run(Path(cfg.paths.run)).ended is None


def test_the_processes_of_a_run_are_known_whatever_its_validation(compose: Callable[..., DictConfig]):
    for more in ([], ["trainer.val_check_interval=0.5"], ["trainer.val_check_interval=null"]):
        assert bare_trainer(compose("train", "trainer=ddp_cpu", *more)).world_size == 2
        assert bare_trainer(compose("train", "trainer=cpu", *more)).world_size == 1


@pytest.mark.slow
def test_a_clean_stage_that_lost_its_result_is_trained_again(
    compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
):
    own = ["trainer.max_steps=2", "trainer.val_check_interval=2", "data.batch_size=4", "validation.attack.steps=1"]
    short = "warm_start.overrides=[" + ",".join(f'"{line}"' for line in own) + "]"
    few = [line for line in FEW if not line.startswith("warm_start")]
    outputs = Path(compose("train").paths.outputs)
    cfg = [compose("train", "experiment=shapes_mtd_warm", *few, short, f"paths.run={outputs / name}") for name in "abc"]
    train(cfg[0])
    (stage,) = (outputs / "shapes_std").iterdir()
    (stage / "checkpoints" / "final.ckpt").unlink()
    train(cfg[1])
    train(cfg[2])
    assert capsys.readouterr().out.count("No finished clean stage shapes_std") == 2
    assert sorted(path.name for path in stage.parent.iterdir()) == [stage.name, f"{stage.name}_2"]


def test_a_run_without_an_end_of_its_own_is_incomplete(compose: Callable[..., DictConfig]):
    endless = ["trainer.max_steps=-1", "scheduler=constant", "+trainer.max_time='00:00:00:01'"]
    run = Run(train(compose("train", "experiment=shapes_std", *FEW, *endless)).parent.parent)
    assert run.ended["incomplete"] == "its config says no end: trainer.max_steps or trainer.max_epochs"
