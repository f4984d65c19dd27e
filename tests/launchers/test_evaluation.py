"""What `evaluate` makes of a suite and a checkpoint before it starts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from robustdet.cli.building import build
from robustdet.cli.clean_stage import identify
from robustdet.cli.evaluate import (
    IncompleteSuiteError,
    evaluate,
    evaluation_folder,
    fitting_attacks,
    spent,
    training_of,
    unfinished_of,
)
from robustdet.cli.train import train
from robustdet.errors import InputError, MissingFileError
from robustdet.evaluation.environment import file_sha256
from robustdet.evaluation.record import Record, Stage, read_records
from robustdet.interop.checkpoints import Checkpoint, load_checkpoint
from robustdet.runs.run import Run
from tests.evaluation.records import RECORD
from tests.launchers.commands import start


@pytest.mark.parametrize("experiment", ["shapes_std", "shapes_robustdet"])
def test_a_detector_meets_the_attacks_that_fit_it(
    experiment: str, compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
):
    cfg = compose("evaluate", f"experiment={experiment}", "suite=reliable")
    attacks, reasons = fitting_attacks(cfg, build(cfg))
    said = capsys.readouterr().out
    routed = experiment == "shapes_robustdet"
    assert ("discriminator" in {attack.knowledge for attack in attacks.values() if attack}) is routed
    assert (": this detector has no discriminator" in said) is not routed
    assert "transfer: suite.attacks.transfer.surrogate.ckpt_path names no checkpoint" in said
    left_out = {"transfer"} if routed else {"transfer"} | {name for name in cfg.suite.attacks if "aid_" in name}
    assert set(cfg.suite.attacks) - set(attacks) == left_out == reasons.keys()
    assert attacks["clean"] is None


def test_one_override_adds_a_surrogate(compose: Callable[..., DictConfig]):
    override = "suite.attacks.transfer.surrogate.ckpt_path=missing.ckpt"
    cfg = compose("evaluate", "experiment=shapes_std", "suite=reliable", override)
    with pytest.raises(Exception, match=r"the surrogate missing\.ckpt does not exist"):
        fitting_attacks(cfg, build(cfg))


def test_a_patch_for_all_images_needs_a_file(compose: Callable[..., DictConfig]):
    cfg = compose("evaluate", "experiment=shapes_std", "suite=patch")
    attacks, reasons = fitting_attacks(cfg, build(cfg))
    assert reasons == {"universal": "suite.attacks.universal.patch_file names no picture"}
    assert attacks.keys() == cfg.suite.attacks.keys() - {"universal"}
    cfg = compose("evaluate", "experiment=shapes_std", "suite=quick", "+attack@suite.attacks.mine=patch_universal")
    with pytest.raises(InputError, match=r"mine: patch_file names the picture of a patch, .*analysis=universal_patch"):
        fitting_attacks(cfg, build(cfg))


def save_weights(cfg: DictConfig, file: Path, **more: object) -> Path:
    """Initial ones, which depend on the seed."""
    weights = {f"model.{key}": value for key, value in build(cfg).model.state_dict().items()}
    torch.save({"state_dict": weights, **more}, file)
    return file


def test_a_surrogate_of_another_task_is_refused(compose: Callable[..., DictConfig], tmp_path: Path):
    trained = compose("train", "experiment=shapes_std")
    checkpoint = finished(trained, tmp_path / "surrogate")
    names = build(trained).data.classes
    override = f"suite.attacks.transfer.surrogate.ckpt_path={checkpoint}"
    cfg = compose("evaluate", "experiment=shapes_std", "suite=reliable", override)
    save_weights(trained, checkpoint, classes=["cat", "dog"])
    text = rf"the surrogate .*final\.ckpt knows the classes cat, dog; the data shapes have {', '.join(names)}: they"
    with pytest.raises(ValueError, match=text):
        fitting_attacks(cfg, build(cfg))
    save_weights(trained, checkpoint, classes=names)
    larger = build(compose("evaluate", "experiment=shapes_std", "model.input_size=128"))
    with pytest.raises(ValueError, match=r"final\.ckpt takes images of 96 pixels, the victim of 128"):
        fitting_attacks(cfg, larger)


@pytest.mark.slow
def test_a_surrogate_is_known_by_its_content(
    compose: Callable[..., DictConfig], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    seeds = [compose("train", "experiment=shapes_std", f"seed={seed}") for seed in range(3)]
    victim, surrogate = (save_weights(cfg, finished(cfg, tmp_path / f"{cfg.seed}")) for cfg in seeds[:2])
    transfer = [
        "+attack@suite.attacks.transfer=transfer",
        "suite.attacks.transfer.attack.steps=1",
        f"suite.attacks.transfer.surrogate.ckpt_path={surrogate}",
    ]
    only = ["suite=quick", "~suite.attacks.pgd_cls", "~suite.attacks.pgd_loc", "suite.max_images=3", "pictures=0"]
    command = ["experiment=shapes_std", f"ckpt_path={victim}", *only, *transfer]

    def evaluated() -> tuple[Record, set[str]]:
        """The record of transfer, and what is stored: one folder for each attack with all its settings."""
        (record,) = (one for one in evaluate(compose("evaluate", *command)) if one.attack == "transfer")
        return record, {file.name for file in (tmp_path / "0" / "evaluation" / "quick" / "detections").iterdir()}

    first, stored = evaluated()
    assert "evaluating  2/2 " in "".join(capfd.readouterr())  # clean and transfer, of one batch of the two there are
    assert sorted(name.partition("-")[0] for name in stored) == ["clean", "transfer"]
    assert first.attack_settings["surrogate"]["sha256"] == file_sha256(surrogate)
    again, same = evaluated()
    assert (again.seconds, same) == (first.seconds, stored)  # nothing was measured again
    save_weights(seeds[2], surrogate)
    other, more = evaluated()
    assert [name.partition("-")[0] for name in more - stored] == ["transfer"]
    assert other.attack_settings["surrogate"]["sha256"] == file_sha256(surrogate)
    assert other.attacked_losses != first.attacked_losses
    assert other.clean_losses == first.clean_losses


def finished(cfg: DictConfig, run: Path, **described: object) -> Path:
    """The checkpoint of a run that says it ended so, with two earlier states beside it; none holds weights."""
    (run / "checkpoints").mkdir(parents=True)
    what = identify(cfg)
    Run(run).begin({}, OmegaConf.to_yaml(cfg, resolve=True))
    for name in ("step_5.ckpt", "last.ckpt", "final.ckpt"):
        (run / "checkpoints" / name).touch()
    mark = {"experiment": cfg.name, "identity": what.run, "recipe": what.recipe}
    Run(run).end({"checkpoint": "checkpoints/final.ckpt", **mark, **described})
    return run / "checkpoints" / "final.ckpt"


def test_runs_that_differ_only_in_their_seed_have_one_recipe(compose: Callable[..., DictConfig], tmp_path: Path):
    one, other, longer = (
        training_of(finished(compose("train", "experiment=shapes_std", *overrides), tmp_path / name))
        for name, overrides in {"a": ["seed=1"], "b": ["seed=2"], "c": ["seed=1", "trainer.max_steps=11"]}.items()
    )
    assert (one["training_seed"], other["training_seed"]) == (1, 2)
    assert one["training_recipe"] == other["training_recipe"] != longer["training_recipe"]


def test_only_what_a_run_ended_with_is_a_seed_of_its_recipe(compose: Callable[..., DictConfig], tmp_path: Path):
    cfg = compose("train", "experiment=shapes_std")
    final = finished(cfg, tmp_path / "whole")
    assert training_of(final)
    for earlier in ("step_5.ckpt", "last.ckpt"):
        assert training_of(final.with_name(earlier)) == {}
    assert training_of(finished(cfg, tmp_path / "pruned", incomplete="it was pruned")) == {}
    interrupted = finished(cfg, tmp_path / "interrupted")
    (tmp_path / "interrupted" / "run.json").unlink()
    assert training_of(interrupted) == {}
    assert training_of(tmp_path / "elsewhere" / "final.ckpt") == {}


def test_a_record_says_why_weights_are_not_what_their_experiment_ends_with(
    compose: Callable[..., DictConfig], tmp_path: Path
):
    cfg = compose("train", "experiment=shapes_std")
    final = finished(cfg, tmp_path / "whole", updates=10)
    state = Checkpoint({}, "a state", updates=5)
    assert unfinished_of(final, state) == unfinished_of(tmp_path / "elsewhere" / "final.ckpt", state) == ""
    middle = final.with_name("step_5.ckpt")
    of_the_middle = "after 5 updates: it is no state that its training ended with, of 10 updates"
    assert unfinished_of(middle, state) == of_the_middle
    assert unfinished_of(middle, replace(state, chosen="the highest AP")) == ""
    assert unfinished_of(final.with_name("last.ckpt"), replace(state, updates=10)) == ""  # the same weights
    pruned = finished(cfg, tmp_path / "pruned", incomplete="it was pruned")
    assert unfinished_of(pruned, replace(state, updates=None)) == "after an unknown number of updates: it was pruned"
    (tmp_path / "whole" / "run.json").unlink()
    for each in (state, replace(state, chosen="the highest AP")):
        assert unfinished_of(middle, each) == "after 5 updates: its training has not ended"


@pytest.mark.slow
def test_a_shortened_clean_stage_is_part_of_a_recipe(compose: Callable[..., DictConfig], tmp_path: Path):
    short = 'warm_start.overrides=["trainer.max_steps=5"]'
    (tmp_path / "clean.ckpt").touch()
    warm, std = ["experiment=shapes_mtd_warm"], ["experiment=shapes_std"]
    whole, shortened = (identify(compose("train", *warm, *more)).recipe for more in ([], [short]))
    assert whole != shortened
    for without_stage in (std, [*warm, f"warm_start.ckpt_path={tmp_path / 'clean.ckpt'}"]):
        assert identify(compose("train", *without_stage)) == identify(compose("train", *without_stage, short))


def test_every_checkpoint_of_a_run_has_records_of_its_own(compose: Callable[..., DictConfig], tmp_path: Path):
    final = finished(compose("train", "experiment=shapes_std"), tmp_path / "run")

    def folder(checkpoint: Path, *overrides: str) -> Path:
        return evaluation_folder(
            compose("evaluate", "experiment=shapes_std", "suite=quick", f"ckpt_path={checkpoint}", *overrides)
        )

    assert folder(final) == tmp_path / "run" / "evaluation" / "quick"
    assert folder(final, "protocol=authors") == tmp_path / "run" / "evaluation" / "quick_authors"
    assert folder(final.with_name("step_5.ckpt")) == tmp_path / "run" / "evaluation" / "quick_step_5"
    elsewhere = tmp_path / "downloads" / "ssd.ckpt"
    assert folder(elsewhere) == tmp_path / "outputs" / "shapes_std" / "ssd" / "evaluation" / "quick"
    assert folder(final, f"paths.run={tmp_path / 'mine'}") == tmp_path / "mine" / "evaluation" / "quick"


# What a record is called by

ONE = ["suite=quick", "~suite.attacks.pgd_loc", "suite.attacks.pgd_cls.steps=1", "suite.max_images=3", "pictures=0"]


@pytest.fixture
def run(compose: Callable[..., DictConfig], tmp_path: Path) -> Path:
    """The final checkpoint of a run of shapes_std with a width of its own, which only its config.yaml knows."""
    cfg = compose("train", "experiment=shapes_std", "model.head_std=0.02")
    return save_weights(cfg, finished(cfg, tmp_path / "trained"), classes=build(cfg).data.classes)


def test_a_run_says_by_itself_what_its_checkpoint_is(compose: Callable[..., DictConfig], run: Path, tmp_path: Path):
    clean, *_ = evaluate(compose("evaluate", f"ckpt_path={run}", *ONE))
    assert (clean.run.experiment, clean.run.method, clean.run.training_seed) == ("shapes_std", "Standard", 0)
    assert clean.run.split_size == 6  # of the run's own data
    named, *_ = evaluate(compose("evaluate", "experiment=shapes_std", f"ckpt_path={run}", *ONE))
    assert named.run == clean.run
    settings = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in run.parents[1].glob("evaluation/quick/detections/*/settings.json")
    ]
    assert {one["model"]["head_std"] for one in settings} == {0.02}
    elsewhere = tmp_path / "elsewhere"
    overrides = [f"data.root={elsewhere}", "data.source.test=4"]
    moved, *_ = evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, *overrides), overrides)
    assert (moved.run.split_size, elsewhere.is_dir()) == (4, True)


def test_the_data_of_a_run_move_with_paths_data(compose: Callable[..., DictConfig], run: Path, tmp_path: Path):
    override = f"paths.data={tmp_path / 'moved'}"
    evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, override), [override])
    assert (tmp_path / "moved" / "shapes").is_dir()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("experiment=shapes_mtd_warm", "trained with experiment=shapes_std, as .*config.yaml says, and this command "
                                       "says experiment=shapes_mtd_warm: leave it out, the run's own counts"),
        ("protocol=authors", "trained with protocol=paper, .* says protocol=authors"),
        ("model.head_std=0.3", "trained with model.head_std=0.02, .* says model.head_std=0.3"),
        ("model=tiny_robust_ssd", r"trained with model=\{.*detection.ssd.SSD.* says model=\{.*RobustSSD"),
        ("method=robustdet", r"trained with method=\{.*Standard.* says method=\{.*RobustDet"),
        ("protocol.max_detections=7", "trained with protocol.max_detections=200, .* says protocol.max_detections=7"),
        ("protocol.channel_means=[1,2,3]", r"trained with protocol\.channel_means=\[123, 117, 104\]"),
        ("augmentation@protocol.augmentation=none", r"trained with protocol\.augmentation=\{"),
    ],
)  # fmt: skip
def test_a_command_that_contradicts_the_run_is_refused_with_both(
    compose: Callable[..., DictConfig], run: Path, override: str, text: str
):
    with pytest.raises(ValueError, match=rf"final\.ckpt was {text}"):
        evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, override), [override])


def test_the_protocol_is_that_of_the_training(compose: Callable[..., DictConfig], tmp_path: Path):
    cfg = compose("train", "experiment=shapes_std", "protocol=authors")
    checkpoint = save_weights(cfg, finished(cfg, tmp_path / "trained"))
    added = ["+attack@suite.attacks.dag=dag_authors", "suite.attacks.dag.steps=1"]
    records = evaluate(compose("evaluate", f"ckpt_path={checkpoint}", *ONE, *added))
    assert {record.run.protocol for record in records} == {"authors"}
    assert (tmp_path / "trained" / "evaluation" / "quick_authors").is_dir()


@pytest.mark.parametrize("protocol", ["paper", "authors"])
def test_attacks_and_rules_of_the_runs_protocol_can_be_changed(
    protocol: str, compose: Callable[..., DictConfig], tmp_path: Path
):
    cfg = compose("train", "experiment=shapes_std", f"protocol={protocol}")
    checkpoint = save_weights(cfg, finished(cfg, tmp_path / "trained"))
    given = ["protocol.cwa.steps=1", "metric@protocol.metrics.area=voc07", "suite=paper"]
    given += [f"~suite.attacks.{name}" for name in ("pgd_cls", "pgd_loc", "dag")]
    small = [setting for setting in ONE if "attacks" not in setting and not setting.startswith("suite=")]
    clean, cwa = evaluate(compose("evaluate", f"ckpt_path={checkpoint}", *small, *given), given)
    whole = compose("evaluate", f"protocol={protocol}").protocol.cwa
    assert cwa.attack_settings == {**OmegaConf.to_container(whole, resolve=True), "steps": 1}
    assert (clean.run.protocol, clean.ap_rule) == (protocol, "voc07")


def test_a_setting_that_the_runs_protocol_has_not_is_refused(compose: Callable[..., DictConfig], tmp_path: Path):
    cfg = compose("train", "experiment=shapes_std", "protocol=authors")
    checkpoint = save_weights(cfg, finished(cfg, tmp_path / "trained"))
    override = "protocol.cwa.objective.clip=3"
    with pytest.raises(InputError, match=r"^protocol\.cwa\.objective\.clip: .* protocol=authors, which has no such"):
        evaluate(compose("evaluate", f"ckpt_path={checkpoint}", *ONE, override), [override])


def test_a_checkpoint_from_elsewhere_needs_an_experiment(compose: Callable[..., DictConfig], tmp_path: Path):
    file = save_weights(compose("train", "experiment=shapes_std"), tmp_path / "theirs.ckpt")
    with pytest.raises(ValueError, match=r"config\.yaml that says what .*theirs\.ckpt is: give experiment=… as well"):
        evaluate(compose("evaluate", f"ckpt_path={file}", *ONE))
    clean, *_ = evaluate(compose("evaluate", "experiment=shapes_std", f"ckpt_path={file}", *ONE))
    assert (clean.run.experiment, clean.run.training_recipe) == ("shapes_std", None)


@pytest.mark.parametrize("change", [lambda names: ["crate", *names[1:]], lambda names: names[::-1]])
def test_classes_renamed_or_in_another_order_are_refused_with_both_lists(
    compose: Callable[..., DictConfig], run: Path, change: Callable[[list[str]], list[str]]
):
    cfg = compose("train", "experiment=shapes_std")
    names = build(cfg).data.classes
    save_weights(cfg, run, classes=change(names))
    text = (
        f"knows the classes {', '.join(change(names))}; the data shapes have {', '.join(names)}: they must be the same"
    )
    with pytest.raises(ValueError, match=text):
        evaluate(compose("evaluate", f"ckpt_path={run}", *ONE))


def test_a_training_keeps_the_names_of_its_classes(compose: Callable[..., DictConfig]):
    cfg = compose("train", "experiment=shapes_std", "trainer.max_steps=1", "validation.attack.steps=1", "logger=none")
    assert load_checkpoint(train(cfg)).classes == build(cfg).data.classes


# What is attacked again


@pytest.mark.slow
def test_what_came_from_the_store_is_said_and_can_be_forced(
    compose: Callable[..., DictConfig], run: Path, capsys: pytest.CaptureFixture[str]
):
    def said(*overrides: str) -> str:
        evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, *overrides))
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Store:"))

    assert "no image was there already: all 3 were measured now under every attack" in said()
    assert "3 of 3 images of each of 2 rows were there already; fresh=true measures them again" in said()
    assert "clean: 3 of 3, pgd_cls: 0 of 3 images were there already" in said("suite.attacks.pgd_cls.steps=2")
    assert "no image was there already" in said("fresh=true")
    assert "no image was there already" in said("trainer.precision=16-true")
    assert "clean: 3 of 5, pgd_cls: 3 of 5 images" in said("suite.max_images=5")


@pytest.mark.slow
def test_the_strongest_suite_is_a_cascade(
    compose: Callable[..., DictConfig], run: Path, capsys: pytest.CaptureFixture[str]
):
    records = evaluate(compose("evaluate", f"ckpt_path={run}", "suite=strongest", "suite.max_images=3", "pictures=0"))
    assert [record.attack for record in records] == ["clean", "worst_case"]
    assert next(iter(records[-1].attack_settings["stages"])) == "outrank"
    # weights that were never trained find nothing
    assert "no object is found on the clean images: there was nothing to attack" in capsys.readouterr().out


def test_what_a_suite_cost_is_said():
    stages = [Stage("outrank", 6, 4, 186.0), Stage("outrank_square", 2, 1, 400.0)]
    worst = replace(RECORD, attack="worst_case", attack_settings={"stages": {}}, stages=stages, num_images=6)
    assert spent([RECORD, worst]).splitlines() == [
        "Cascade:  outrank 6 (4), outrank_square 2 (1) images attacked (taken)",
        "Cost:     98 forward passes an image",
    ]
    rows = [replace(RECORD, forward_passes=20.4), replace(RECORD, forward_passes=1000.0)]
    both = replace(RECORD, attack="worst_case", forward_passes=1020.4)
    assert spent([*rows, both]) == "Cost:     1,020 forward passes an image"


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_another_precision_is_allowed_and_marked(
    compose: Callable[..., DictConfig], run: Path, precision: str, capsys: pytest.CaptureFixture[str]
):
    records = evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, f"trainer.precision={precision}"))
    assert {record.environment.precision for record in records} == {f"{precision}, TF32 off"}
    shown = " ".join(capsys.readouterr().out.split())
    assert f"other_precision: measured in {precision}, TF32 off instead of 32-true, TF32 off" in shown


@pytest.mark.slow
def test_a_relabelled_test_set_is_measured_again(compose: Callable[..., DictConfig], run: Path, tmp_path: Path):
    override = f"paths.data={tmp_path / 'mine'}"

    def clean() -> Record:
        return evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, override), [override])[0]

    before = clean()
    folder = next((tmp_path / "mine").rglob("Annotations"))
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        first, second = (f"<name>{name}</name>" for name in list(before.per_class)[:2])
        file.write_text(
            text.replace(first, "<swap>").replace(second, first).replace("<swap>", second), encoding="utf-8"
        )
    after = clean()
    assert after.clean_losses != before.clean_losses
    fresh = evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, override, "fresh=true"), [override])[0]
    assert (after.map, after.clean_losses) == (fresh.map, fresh.clean_losses)


def test_it_writes_where_it_is_told_to(compose: Callable[..., DictConfig], run: Path, tmp_path: Path):
    evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, f"paths.run={tmp_path / 'there'}", "pictures=1"))
    assert sorted(file.name for file in run.parents[1].iterdir()) == ["checkpoints", "config.yaml", "run.json"]
    assert (tmp_path / "there" / "evaluation" / "quick" / "records" / "clean.json").is_file()
    assert (tmp_path / "there" / "evaluation" / "quick" / "detections.png").is_file()


def test_a_checkpoint_in_a_folder_that_cannot_be_written_to(
    compose: Callable[..., DictConfig], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = run.parents[1]
    assert evaluation_folder(compose("evaluate", f"ckpt_path={run}")).is_relative_to(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)  # root may write whatever a mode says
    cfg = compose("evaluate", f"ckpt_path={run}")
    assert evaluation_folder(cfg) == tmp_path / "outputs" / "unnamed" / folder.name / "evaluation" / "paper"
    told = compose("evaluate", f"ckpt_path={run}", f"paths.run={tmp_path / 'there'}")
    assert evaluation_folder(told) == tmp_path / "there" / "evaluation" / "paper"


# One attack, more attacks, attacks that fail


def test_one_attack_alone_obeys_the_command_line(compose: Callable[..., DictConfig], run: Path):
    overrides = ["attack=pgd_total", "attack.steps=2"]
    few = ["suite.max_images=3", "pictures=0"]
    clean, attacked = evaluate(compose("evaluate", f"ckpt_path={run}", *overrides, *few), overrides)
    assert (clean.attack, attacked.attack, attacked.attack_settings["steps"]) == ("clean", "pgd_total", 2)
    assert (attacked.run.suite, attacked.run.tabled) == ("attack pgd_total", False)
    assert (run.parents[1] / "evaluation" / "attack_pgd_total" / "records" / "pgd_total.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["attack=cwa", "suite=quick"], r"suite=quick says another suite: leave one out\. To add it to a suite: "
                                        r"\+attack@suite\.attacks\.cwa=cwa"),
        (["attack=cwa", "suite.attacks.pgd_cls.steps=1"], "suite.attacks.pgd_cls.steps=1 says another suite"),
        (["attack.steps=3"], r"attack\.steps=3: of which attack\? attack=NAME attack\.steps=… evaluates that one "
                             r"alone, suite\.attacks\.NAME\.steps=… is of an attack of the suite"),
    ],
)  # fmt: skip
def test_what_would_be_passed_over_is_refused(
    compose: Callable[..., DictConfig], run: Path, overrides: list[str], text: str
):
    with pytest.raises(ValueError, match=text):
        evaluate(compose("evaluate", f"ckpt_path={run}", *overrides), overrides)


@pytest.mark.slow
def test_a_text_in_place_of_an_attack_is_answered_with_the_right_spelling(
    compose: Callable[..., DictConfig], run: Path
):
    text = (
        r"suite\.attacks\.cwa=cwa is a text, .*: \+attack@suite\.attacks\.cwa=cwa takes them from conf/attack/cwa\.yaml"
    )
    with pytest.raises(ValueError, match=text):
        evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, "+suite.attacks.cwa=cwa"))
    added = ["+attack@suite.attacks.cwa=cwa", "suite.attacks.cwa.steps=1"]
    assert "cwa" in {record.attack for record in evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, *added))}


@pytest.mark.slow
def test_a_record_of_an_attack_that_left_the_suite_goes_with_it(compose: Callable[..., DictConfig], run: Path):
    evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, "+attack@suite.attacks.fgsm=fgsm"))
    evaluate(compose("evaluate", f"ckpt_path={run}", *ONE))
    records = run.parents[1] / "evaluation" / "quick" / "records"
    assert sorted(file.stem for file in records.iterdir()) == ["clean", "pgd_cls"]


BROKEN = """
from robustdet.attacks import BaseAttack, PixelRange
class Broken(BaseAttack):
    threat = PixelRange()
    def __call__(self, victim, images, targets, generators):
        return images / 0
"""


def test_a_broken_attack_ends_its_row_and_the_command_says_so(
    compose: Callable[..., DictConfig], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "broken_attack.py").write_text(BROKEN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    added = ["+suite.attacks.broken._target_=broken_attack.Broken", "+attack@suite.attacks.fgsm=fgsm"]
    text = r"^1 of 4 rows failed:\n  broken: image '\w+' has a pixel that is NaN or infinite, expected .* \[0, 1\]$"
    with pytest.raises(IncompleteSuiteError, match=text):
        evaluate(compose("evaluate", f"ckpt_path={run}", *ONE, *added))
    records = {one.attack: one for one in read_records([run.parents[1]])}
    assert sorted(records) == ["clean", "fgsm", "pgd_cls", "worst_case"]
    assert list(records["worst_case"].failed) == ["broken"]
    small = ["suite.max_images=3", "pictures=0", "trainer=cpu", "+suite.attacks.broken._target_=broken_attack.Broken"]
    command = start("evaluate", f"ckpt_path={run}", "suite=quick", *small, PYTHONPATH=f"{tmp_path}:src")
    assert command.wait() == 1
    assert "1 of 4 rows failed:\n  broken: image" in command.warned


def test_nothing_is_drawn_where_a_strangers_run_says(compose: Callable[..., DictConfig], tmp_path: Path):
    small = ["experiment=shapes_std", "trainer.max_steps=1", "trainer.val_check_interval=1", "logger=none"]
    checkpoint = train(compose("train", *small))
    run = Run.around(checkpoint)
    assert run is not None
    elsewhere = tmp_path / "home"
    settings = run.config
    settings["data"]["root"] = settings["paths"]["data"] = str(elsewhere)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    cfg = [f"ckpt_path={checkpoint}", "suite=quick", "suite.max_images=1", "pictures=0"]
    with pytest.raises(MissingFileError, match=rf"{elsewhere}/.* is not there, and nothing is drawn where somebody"):
        evaluate(compose("evaluate", *cfg))
    assert not elsewhere.exists()
    own = f"data.root={tmp_path / 'own'}"
    assert evaluate(compose("evaluate", *cfg, own), [own])
