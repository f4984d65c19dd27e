"""What `evaluate` makes of a suite and a checkpoint before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from robustdet.attacks.sight import what_it_sees
from src.building import build
from src.evaluate import fitting_attacks, training_of


@pytest.mark.parametrize("experiment", ["shapes_std", "shapes_robustdet"])
def test_a_detector_meets_the_attacks_that_fit_it(
    experiment: str, compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
):
    cfg = compose("evaluate", f"experiment={experiment}", "suite=reliable")
    attacks = fitting_attacks(cfg, build(cfg).model)
    said = capsys.readouterr().out
    routed = experiment == "shapes_robustdet"
    assert ("discriminator" in {what_it_sees(attack) for attack in attacks.values()}) is routed
    assert ("aid_kernel_3: this detector has no discriminator" in said) is not routed
    assert "transfer: suite.attacks.transfer.surrogate.ckpt_path names no checkpoint" in said
    left_out = {"transfer"} if routed else {"transfer"} | {name for name in cfg.suite.attacks if "aid_" in name}
    assert set(cfg.suite.attacks) - set(attacks) == left_out
    assert attacks["clean"] is None


def test_one_override_adds_a_surrogate(compose: Callable[..., DictConfig]):
    override = "suite.attacks.transfer.surrogate.ckpt_path=missing.ckpt"
    cfg = compose("evaluate", "experiment=shapes_std", "suite=reliable", override)
    with pytest.raises(Exception, match=r"the surrogate missing\.ckpt needs .*missing\.ckpt, which does not exist"):
        fitting_attacks(cfg, build(cfg).model)


def trained(cfg: DictConfig, folder: Path) -> dict[str, object]:
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    return training_of(folder / "checkpoints" / "final.ckpt")


def test_runs_that_differ_only_in_their_seed_have_one_recipe(compose: Callable[..., DictConfig], tmp_path: Path):
    one, other, longer = (
        trained(compose("train", "experiment=shapes_std", *overrides), tmp_path / name)
        for name, overrides in {"a": ["seed=1"], "b": ["seed=2"], "c": ["seed=1", "trainer.max_steps=11"]}.items()
    )
    assert (one["training_seed"], other["training_seed"]) == (1, 2)
    assert one["training_recipe"] == other["training_recipe"] != longer["training_recipe"]
    assert training_of(tmp_path / "elsewhere" / "final.ckpt") == {}
