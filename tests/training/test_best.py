"""The best state by a mix of clean and attacked AP: what the mix is, which state is kept, and who is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from omegaconf import DictConfig

from robustdet.analysis.report.findings import read_run
from robustdet.analysis.table import summary
from robustdet.cli.evaluate import evaluate
from robustdet.cli.train import train
from robustdet.errors import InputError
from robustdet.interop.checkpoints import load_checkpoint
from robustdet.runs.run import Run
from robustdet.training.module import DetectionModule
from robustdet.training.validation import Validation
from robustdet.types import Attack, Detections
from tests.launchers.commands import FEW
from tests.training import told
from tests.training.test_ranks import validation_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.usefixtures("one_thread"),
]
RUN = [*FEW, "experiment=shapes_std", "trainer.max_steps=7", "trainer.val_check_interval=2"]  # looks after 2, 4, 6, 7
Compose = Callable[..., DictConfig]


def state(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.25, "0.25 clean + 0.75 attacked AP50"), (1, "1 clean AP50"), (0, "1 attacked AP50")],
)
def test_the_mix_is_a_weighted_mean_of_both(share: float, words: str):
    validation = validation_of(["a", "b"])
    validation.attack, validation.clean_share = Mock(spec=Attack), share
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    validation.attacked = {"a": validation.clean["a"], "b": nothing}
    found = validation.compute()
    assert (found["AP50_clean"], found["AP50_attacked"]) == (1, 0.5)
    assert found["AP50_mix"] == share + (1 - share) * 0.5
    assert (validation.mix, validation.looked_at) == (words, 2)


def test_without_an_attack_the_mix_is_clean():
    assert Validation(None, None, 1, seed=0, clean_share=0.3).mix == "1 clean AP50"


def measured(monkeypatch: pytest.MonkeyPatch, mixes: Mapping[int, float]) -> None:
    """What validations find, by the updates made."""
    original = DetectionModule.on_validation_epoch_end

    def look(module: DetectionModule) -> None:
        mix = mixes[module.global_step]
        module.validation.looked_at = 7
        module.validation.compute = lambda: {"AP50_clean": mix, "AP50_attacked": mix, "AP50_mix": mix}
        original(module)

    monkeypatch.setattr(DetectionModule, "on_validation_epoch_end", look)


@pytest.mark.parametrize(
    ("mixes", "updates"),
    [({2: 0.2, 4: 0.5, 6: 0.5, 7: 0.4}, 4), ({2: 0.2, 4: 0.3, 6: 0.1, 7: 0.9}, 7)],
    ids=["the first of equals", "the last"],
)
def test_the_best_look_is_kept_and_told(
    mixes: dict[int, float], updates: int, compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys
):
    measured(monkeypatch, mixes)
    final = train(compose("train", *RUN))
    best, last = final.with_name("best.ckpt"), final.with_name("final.ckpt")
    said = (
        f"the highest 0.5 clean + 0.5 attacked AP50 on 7 images of the validation split: {mixes[updates]:.4f}, "
        f"after {updates} updates"
    )
    assert capsys.readouterr().out.count(f"Kept as best, for {said}: {best}\n") == 1
    assert read_run(final.parent.parent / "run.json").best == {str(Path("checkpoints", "best.ckpt")): said}
    assert (load_checkpoint(best).chosen, load_checkpoint(last).chosen) == (said, "")
    assert state(best)["global_step"] == updates
    same = all(
        torch.equal(tensor, state(best)["state_dict"][name]) for name, tensor in state(last)["state_dict"].items()
    )
    assert same == (updates == 7)
    assert Run(final.parent.parent).result == last


def test_another_metric_can_choose(compose: Compose, monkeypatch: pytest.MonkeyPatch):
    measured(monkeypatch, {2: 0.2, 4: 0.5, 6: 0.1, 7: 0.4})
    final = train(compose("train", *RUN, "callbacks.best.monitor=val/AP50_attacked"))
    chosen = load_checkpoint(final.with_name("best.ckpt")).chosen
    assert chosen == "the highest val/AP50_attacked on 7 images of the validation split: 0.5000, after 4 updates"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [["trainer.limit_val_batches=0"], ["+trainer.fast_dev_run=true"]])
def test_nothing_is_best_where_nothing_was_looked_at(settings: list[str], compose: Compose, capsys):
    final = train(compose("train", *RUN, *settings))
    assert not final.with_name("best.ckpt").exists()
    assert "Kept as best" not in capsys.readouterr().out
    assert json.loads((final.parent.parent / "run.json").read_text(encoding="utf-8"))["best"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("told_in", ["the update", "the validation"])
def test_a_run_that_goes_on_knows_its_best(told_in: str, compose: Compose, monkeypatch: pytest.MonkeyPatch):
    """It is told to stop around the best look of all."""
    measured(monkeypatch, {2: 0.2, 4: 0.5, 6: 0.3, 7: 0.4})
    hook, at = {"the update": ("training_step", 3), "the validation": ("validation_step", 4)}[told_in]
    with monkeypatch.context() as patch:
        told.to_stop(patch, hook, at)
        with pytest.raises(SystemExit, match="143"):
            train(compose("train", *RUN))
    run = Run(Path(compose("train").paths.run))
    assert run.newest_checkpoint == run.checkpoints / "last.ckpt"
    before = state(run.checkpoints / "best.ckpt")
    final = train(compose("train", *RUN))
    after = state(final.with_name("best.ckpt"))
    assert before["global_step"] == after["global_step"] == 4
    assert before["chosen"] == after["chosen"]
    assert list(read_run(run.folder / "run.json").best.values()) == [after["chosen"]]


@pytest.mark.slow
def test_a_best_state_that_is_gone_is_no_best(compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys):
    measured(monkeypatch, {2: 0.9, 4: 0.5, 6: 0.3, 7: 0.4})
    with monkeypatch.context() as patch:
        told.to_stop(patch, "training_step", 2)
        with pytest.raises(SystemExit, match="143"):
            train(compose("train", *RUN))
    best = Run(Path(compose("train").paths.run)).checkpoints / "best.ckpt"
    assert state(best)["global_step"] == 2
    best.unlink()
    capsys.readouterr()
    train(compose("train", *RUN))
    assert "best.ckpt is gone: the best state is chosen anew" in capsys.readouterr().out
    assert state(best)["global_step"] == 4


@pytest.mark.slow
def test_a_look_at_an_earlier_state_is_no_result_of_the_run(compose: Compose, monkeypatch: pytest.MonkeyPatch):
    measured(monkeypatch, {2: 0.9})
    with monkeypatch.context() as patch:
        told.to_stop(patch, "training_step", 2)
        with pytest.raises(SystemExit, match="143"):
            train(compose("train", *RUN))
    final = train(compose("train", *RUN, "trainer.limit_val_batches=0"))
    metrics = json.loads((final.parent.parent / "run.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics
    assert not [name for name in metrics if name.startswith("val/")]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["validation.clean_share=0.9"], "clean_share"),
        (["validation.attack.steps=2", "validation.max_images=3"], "attack, max_images"),
        (["validation.attack=null"], "attack"),
        ([], ""),
    ],
)
def test_scores_of_two_rules_are_not_compared(
    changed: list[str], said: str, compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    measured(monkeypatch, {2: 0.2, 4: 0.5, 6: 0.3, 7: 0.1})  # the best look is before the end of the first process
    with monkeypatch.context() as patch:
        told.to_stop(patch, "validation_step", 4)
        with pytest.raises(SystemExit, match="143"):
            train(compose("train", *RUN))
    capsys.readouterr()
    best = train(compose("train", *RUN, *changed)).with_name("best.ckpt")
    printed = capsys.readouterr().out
    assert printed.count("its best state is chosen anew") == (said != "")
    assert f"The validation has another {said} than before: its best state is chosen anew" in printed or not said
    score, updates = ("0.3000", 6) if said else ("0.5000", 4)
    assert state(best)["global_step"] == updates
    assert state(best)["chosen"].endswith(f"of the validation split: {score}, after {updates} updates")
    assert list(read_run(best.parents[1] / "run.json").best.values()) == [state(best)["chosen"]]


def test_scores_on_other_images_are_not_compared(compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys):
    measured(monkeypatch, {2: 0.5, 4: 0.4, 6: 0.3, 7: 0.1})
    look = DetectionModule.on_validation_epoch_end

    def fewer(module: DetectionModule) -> None:
        look(module)
        module.validation.looked_at = 7 if module.global_step < 6 else 3

    monkeypatch.setattr(DetectionModule, "on_validation_epoch_end", fewer)
    chosen = load_checkpoint(train(compose("train", *RUN)).with_name("best.ckpt")).chosen
    assert "another number of images than before" in capsys.readouterr().out
    assert chosen.endswith("on 3 images of the validation split: 0.3000, after 6 updates")


def test_a_record_and_its_table_say_by_what_the_weights_were_chosen(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys
):
    measured(monkeypatch, {2: 0.5})
    final = train(compose("train", *RUN, "trainer.max_steps=2"))
    few = ["suite=quick", "suite.max_images=2", "pictures=0", "~suite.attacks.pgd_loc", "suite.attacks.pgd_cls.steps=1"]
    of_best, of_final = (
        evaluate(compose("evaluate", *few, f"ckpt_path={final.with_name(name)}"))
        for name in ("best.ckpt", "final.ckpt")
    )
    chosen = load_checkpoint(final.with_name("best.ckpt")).chosen
    assert {record.run.kept_for for record in of_best} == {chosen}
    assert {record.run.kept_for for record in of_final} == {""}
    assert (of_best[0].run.training_recipe, of_final[0].run.training_recipe is None) == (None, False)
    assert f"The weights in best.ckpt were chosen for {chosen}" in capsys.readouterr().out
    assert f"shapes_std: the weights were chosen for {chosen}" in summary(of_best).notes
    assert summary(of_final).notes == []


def test_what_a_file_says_of_itself_is_a_text(tmp_path: Path):
    file = tmp_path / "odd.ckpt"
    torch.save({"state_dict": {"model.weight": torch.zeros(1)}, "chosen": 3}, file)
    with pytest.raises(InputError, match=r"odd\.ckpt\['chosen'\] should be a text, got 3"):
        load_checkpoint(file)
