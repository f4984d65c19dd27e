"""What `evaluate` makes of a suite and a checkpoint before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig

from robustdet.evaluation.environment import file_sha256
from robustdet.evaluation.record import Record
from src.building import build, save_config
from src.clean_stage import fingerprint
from src.evaluate import evaluate, evaluation_folder, fitting_attacks, training_of


@pytest.mark.parametrize("experiment", ["shapes_std", "shapes_robustdet"])
def test_a_detector_meets_the_attacks_that_fit_it(
    experiment: str, compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
):
    cfg = compose("evaluate", f"experiment={experiment}", "suite=reliable")
    attacks = fitting_attacks(cfg, build(cfg))
    said = capsys.readouterr().out
    routed = experiment == "shapes_robustdet"
    assert ("discriminator" in {attack.knowledge for attack in attacks.values() if attack}) is routed
    assert ("aid_kernel_3: this detector has no discriminator" in said) is not routed
    assert "transfer: suite.attacks.transfer.surrogate.ckpt_path names no checkpoint" in said
    left_out = {"transfer"} if routed else {"transfer"} | {name for name in cfg.suite.attacks if "aid_" in name}
    assert set(cfg.suite.attacks) - set(attacks) == left_out
    assert attacks["clean"] is None


def test_one_override_adds_a_surrogate(compose: Callable[..., DictConfig]):
    override = "suite.attacks.transfer.surrogate.ckpt_path=missing.ckpt"
    cfg = compose("evaluate", "experiment=shapes_std", "suite=reliable", override)
    with pytest.raises(Exception, match=r"the surrogate missing\.ckpt needs .*missing\.ckpt, which does not exist"):
        fitting_attacks(cfg, build(cfg))


def save_weights(cfg: DictConfig, file: Path) -> Path:
    """Initial ones, which depend on the seed."""
    torch.save({"state_dict": {f"model.{key}": value for key, value in build(cfg).model.state_dict().items()}}, file)
    return file


def test_a_surrogate_of_another_task_is_refused(compose: Callable[..., DictConfig], tmp_path: Path):
    checkpoint = finished(compose("train", "experiment=shapes_std"), tmp_path / "surrogate")
    override = f"suite.attacks.transfer.surrogate.ckpt_path={checkpoint}"
    cfg = compose("evaluate", "experiment=shapes_std", "suite=reliable", override)
    animals = replace(build(cfg), data=SimpleNamespace(classes=["cat", "dog"]))
    text = r"final\.ckpt knows \d+ classes \(\w+, \w+, \w+, …\), the victim 2 \(cat, dog, …\): they must be the same"
    with pytest.raises(ValueError, match=text):
        fitting_attacks(cfg, animals)
    larger = build(compose("evaluate", "experiment=shapes_std", "model.input_size=128"))
    with pytest.raises(ValueError, match=r"final\.ckpt takes images of 96 pixels, the victim of 128"):
        fitting_attacks(cfg, larger)


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
    assert "evaluating  1/1 " in "".join(capfd.readouterr())  # of the two batches there are
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
    save_config(cfg, run)
    for name in ("step_5.ckpt", "last.ckpt", "final.ckpt"):
        (run / "checkpoints" / name).touch()
    content = {"checkpoint": "checkpoints/final.ckpt", "fingerprint": fingerprint(cfg), **described}
    (run / "run.json").write_text(json.dumps(content))
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
    assert training_of(finished(cfg, tmp_path / "pruned", fingerprint=None)) == {}
    interrupted = finished(cfg, tmp_path / "interrupted")
    (tmp_path / "interrupted" / "run.json").unlink()
    assert training_of(interrupted) == {}
    assert training_of(tmp_path / "elsewhere" / "final.ckpt") == {}


def test_a_shortened_clean_stage_is_part_of_a_recipe(compose: Callable[..., DictConfig]):
    short = 'warm_start.overrides=["trainer.max_steps=5"]'
    warm, std, file = ["experiment=shapes_mtd_warm"], ["experiment=shapes_std"], "warm_start.ckpt_path=clean.ckpt"
    whole, shortened = (fingerprint(compose("train", *warm, *more)) for more in ([], [short]))
    assert whole != shortened
    for without_stage in (std, [*warm, file]):
        assert fingerprint(compose("train", *without_stage)) == fingerprint(compose("train", *without_stage, short))


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
