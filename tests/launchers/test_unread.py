"""Overrides that nothing in a training reads: refused by every way into it, a sweep before its first job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from robustdet.cli.composition import all_keys
from robustdet.cli.train import train
from robustdet.cli.unread import PARTS, passed_over, require_read, unscaled
from robustdet.errors import InputError
from tests.launchers.commands import ended

Compose = Callable[..., DictConfig]
STEPS = {"attack.steps", "attack.step_size", "attack.random_start"}


@pytest.mark.parametrize(
    ("experiment", "override", "text"),
    [
        ("shapes_mtd", "loss.gamma=0.3", "the method is AdversarialTraining and asks for no loss: leave it out"),
        ("shapes_std", "attack.threat.epsilon=4/255", "the method is Standard and asks for no attack"),
        ("shapes_std", "attack.steps=2", "the method is Standard and asks for no attack"),
        ("shapes_std", "schedule.epsilon_warmup=100", "the method is Standard and asks for no schedule"),
        ("shapes_robustdet", "loss.b=0.1", "only CFR has L_re and L_kld, and with this RobustDet model.cfr is null"),
        ("shapes_robustdet", "loss.c=0.1", "leave it out .*, or choose an experiment=…_cfr"),
    ],
)
def test_a_training_refuses_it_and_names_the_method(
    experiment: str, override: str, text: str, compose: Compose, tmp_path: Path
):
    overrides = [f"experiment={experiment}", override]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=f"^{override}: nothing reads this, for .*{text}"):
        train(compose("train", *overrides), overrides)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("experiment", "read"),
    [
        ("shapes_std", ()),
        ("shapes_mtd", ("attack", "schedule")),
        ("shapes_robustdet", ("attack", "schedule", "loss.gamma", "loss.beta", "loss.a", "loss._target_")),
        ("shapes_cfr", ("attack", "schedule", "loss")),
        ("shapes_cwat", ("attack", "schedule")),
    ],
)
def test_what_a_method_reads_is_as_the_paper_has_it(experiment: str, read: tuple[str, ...], compose: Compose):
    cfg = compose("train", f"experiment={experiment}")
    keys = [key for key in all_keys(cfg) if key.startswith(tuple(f"{part}." for part in PARTS))]
    found = set()
    for key in keys:
        try:
            require_read(cfg, [f"{key}=1"])
        except InputError:
            continue
        found.add(key)
    assert found == {key for key in keys if f"{key}.".startswith(tuple(f"{one}." for one in read))}
    assert STEPS - {"attack.random_start"} <= set(keys)


@pytest.mark.parametrize(
    "override", ["attack=mtd", "loss=robustdet", "schedule=full", "~attack.steps", "optimizer.lr=1"]
)
def test_whole_parts_what_is_taken_out_and_other_parts_are_not_asked_for(override: str, compose: Compose):
    cfg = compose("train", "experiment=shapes_std")
    assert require_read(cfg, [override]) is None
    with pytest.raises(InputError, match=r"attack\.steps=2: nothing reads this"):
        require_read(cfg, [override, "attack.steps=2"])


def test_a_part_that_something_else_takes_up_is_read(compose: Compose):
    cfg = compose("train", "experiment=shapes_std", "validation.attack=${attack}")
    require_read(cfg, ["attack.threat.epsilon=4/255", "attack.threat={epsilon: 4/255}"])
    with pytest.raises(InputError, match="asks for no schedule"):
        require_read(cfg, ["attack.steps=3", "schedule.updates_per_source=3"])


def test_of_whole_attacks_a_replay_takes_no_steps(compose: Compose):
    given = ["attack.steps=2", "attack.threat.epsilon=4/255", "attack.step_size=1/255"]
    said = passed_over(compose("train", "experiment=shapes_mtd", *given), given)
    assert said.startswith("attack.steps, attack.step_size: not used in training, for Replay begins at clean images")
    assert passed_over(compose("train", "experiment=shapes_mtd"), ["attack.threat.epsilon=4/255"]) == ""
    assert passed_over(compose("train", "experiment=shapes_mtd", "schedule=full", *given), given) == ""


def test_the_size_of_a_ball_says_what_it_does_not_scale(compose: Compose):
    def said(*given: str) -> str:
        return unscaled(compose("train", "experiment=shapes_mtd", *given), given)

    both = "attack.threat.epsilon=4/255 scales nothing else: schedule.step_sizes go up to 8/255, the attack that is "
    assert said("attack.threat.epsilon=4/255") == f"{both}watched has validation.attack.threat.epsilon=8/255"
    scaled = ["schedule.step_sizes=[1/255,4/255]", "validation.attack.threat.epsilon=4/255"]
    assert said("attack.threat.epsilon=4/255", *scaled) == ""
    assert said("attack.threat.epsilon=8/255") == said("optimizer.lr=0.1") == ""


def test_a_grid_is_refused_before_its_first_job(tmp_path: Path):
    done = ended("train", "-m", "experiment=shapes_mtd", "loss.gamma=0.3,0.6", f"paths.outputs={tmp_path}")
    assert done.code == 1
    assert done.warned.startswith("loss.gamma=0.3,0.6: nothing reads this, for the method is AdversarialTraining")
    assert not [*tmp_path.iterdir()]


def test_a_search_is_refused_before_its_first_job_where_one_of_its_values_is_not_read(tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = ended("train", "experiment=shapes_robustdet", "hparams_search=loss_weights", f"paths.outputs={tmp_path}")
    assert done.code == 1
    assert done.warned.startswith("loss.b=tag(log, interval(0.02, 1.0)): nothing reads this, for only CFR has L_re")
    assert not [*tmp_path.iterdir()]


def test_in_a_sweep_over_experiments_each_job_says_so_itself(tmp_path: Path):
    given = ["experiment=shapes_mtd,shapes_std", "attack.threat.epsilon=4/255", "debug=fdr", f"paths.data={tmp_path}"]
    small = [f"data.source.{split}=8" for split in ("train", "val", "test")] + ["data.batch_size=4"]
    done = ended("train", "-m", *given, *small, "warm_start.experiment=null", f"paths.outputs={tmp_path}")
    assert "attack.threat.epsilon=4/255: nothing reads this, for the method is Standard" in done.warned + done.said
    assert len([*tmp_path.glob("sweeps/several/*/*/run.json")]) == 1
