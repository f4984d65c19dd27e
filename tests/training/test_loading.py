"""A checkpoint says what it is of: Lightning's `load_from_checkpoint` needs nothing beside the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from robustdet.cli.train import train
from robustdet.defences.robust_ssd import RobustSSD
from robustdet.defences.robustdet import RobustDet
from robustdet.training.module import DetectionModule
from robustdet.training.rebuilding import rebuilt
from tests.launchers.commands import FEW


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")
def test_a_module_is_built_from_its_checkpoint(compose: Callable[..., DictConfig]):
    settings = ["experiment=shapes_cfr", "trainer.max_steps=1", "trainer.val_check_interval=1", "logger=none"]
    checkpoint = train(compose("train", *FEW, *settings, "seed=3"))
    (checkpoint.parent.parent / "config.yaml").unlink()
    module = DetectionModule.load_from_checkpoint(checkpoint)
    assert isinstance(module.model, RobustSSD)
    assert isinstance(module.method, RobustDet)
    assert module.validation is not None
    assert (module.seed, module.model.num_classes) == (3, 6)
    assert module.classes == ["cross", "disc", "ring", "square", "star", "triangle"]
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["classes"] == module.classes == module.hparams["classes"]
    loaded = module.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in saved["state_dict"].items())
    optimizer = module.configure_optimizers()["optimizer"]
    assert optimizer.defaults["lr"] == pytest.approx(saved["hyper_parameters"]["optimizer"]["lr"])
    assert DetectionModule.load_from_checkpoint(checkpoint, validation=None).validation is None


@pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")
@pytest.mark.parametrize("way", ["warm_start.ckpt_path", "ckpt_path"])
def test_weights_of_other_classes_are_no_start(compose: Callable[..., DictConfig], tmp_path: Path, way: str):
    settings = [*FEW, "experiment=shapes_std", "trainer.max_steps=1", "logger=none"]
    content = torch.load(train(compose("train", *settings)), weights_only=True)
    names = content["classes"]
    theirs = tmp_path / "theirs.ckpt"
    torch.save({**content, "classes": names[::-1]}, theirs)
    there = rf"the data (shapes|of this training) have {', '.join(names)}"
    text = rf"knows the classes {', '.join(names[::-1])}; {there}: they must be the"
    with pytest.raises(ValueError, match=text):
        train(compose("train", *settings, "seed=1", f"{way}={theirs}", f"paths.run={tmp_path / 'second'}"))


@pytest.mark.parametrize(
    "target",
    ["os.system", "robustdet.training.wandb_run.os.system", "robustdet.training.levers.ExitStack", "torch.load"],
)
def test_a_checkpoint_calls_nothing_foreign(target: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"the checkpoint asks for .*, which is not of this project"):
        rebuilt({"model": {"_target_": target, "command": f"touch {tmp_path / 'called'}"}})
