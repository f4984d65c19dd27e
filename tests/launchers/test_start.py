"""What a training starts from: found first, said in one line, and nothing that was measured to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from robustdet.cli.building import build, module_settings
from robustdet.cli.start import RANDOM, origin, require_discriminator, require_weights
from robustdet.cli.train import train
from robustdet.detection.backbones.vgg import VGG16
from robustdet.detection.layers import PlannedLayers
from robustdet.errors import InputError, MissingFileError
from tests.launchers.test_composition import EXPERIMENTS
from tests.slowness import quick

PHOTOGRAPHS = sorted(name for name in EXPERIMENTS if name.startswith(("voc_", "coco_")))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def unreachable(*arguments: Any, **keywords: Any) -> None:
        raise URLError("no network in a test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize("name", quick(PHOTOGRAPHS, lambda name: not name.startswith("coco_")))
def test_experiments_on_photographs_start_from_trained_weights(name: str, compose: Callable[..., DictConfig]):
    for protocol in ("paper", "authors"):
        model = compose("train", f"experiment={name}", f"protocol={protocol}").model
        assert model.weights == "imagenet"
        assert OmegaConf.select(model, "aid.trunk.weights") in ("imagenet", None)
        require_discriminator(model)


def test_a_discriminator_that_was_measured_to_fail_is_refused(compose: Callable[..., DictConfig]):
    dead = ["experiment=voc_cfr", "model.aid.trunk.weights=null"]
    with pytest.raises(InputError, match=r"learn nothing. Give it imagenet or a FILE, or high-passed images: 'model"):
        train(compose("train", *dead))
    high_passed = "model.aid.input_filter={_target_: robustdet.defences.aid.HighPass}"
    require_discriminator(compose("train", *dead, high_passed).model)
    require_discriminator(compose("train", "experiment=shapes_cfr").model)


def test_weights_that_are_missing_are_told_before_a_run_begins(compose: Callable[..., DictConfig], offline: Path):
    cfg = compose("train", "experiment=shapes_std", "model=ssd300", "model.input_size=96")
    with pytest.raises(MissingFileError, match=rf"model.weights=imagenet: .* is not in {offline}"):
        train(cfg)
    assert not list(Path(cfg.paths.outputs).rglob("config.yaml"))
    cfg.model.weights = "nowhere.pth"
    with pytest.raises(MissingFileError, match=r"model.weights=nowhere.pth: no such file"):
        train(cfg)


def test_what_a_checkpoint_brings_is_not_looked_for(compose: Callable[..., DictConfig], offline: Path):
    cfg = compose("train", "experiment=voc_cfr")
    require_weights(cfg.model, ("weights", "aid.trunk.weights"))
    with pytest.raises(MissingFileError, match=r"model.aid.trunk.weights=imagenet"):
        require_weights(cfg.model, ("weights",))
    cfg = compose("train", "experiment=shapes_std", "model=ssd300")
    assert build(cfg, ("weights", "aid.trunk.weights")).model.input_size == 300
    assert module_settings(cfg, ["a"])["model"]["weights"] is None


def test_what_a_run_starts_from_in_words(compose: Callable[..., DictConfig]):
    std, cfr = (compose("train", f"experiment=voc_{row}").model for row in ("std", "cfr"))
    vgg, resnet = "ImageNet weights, vgg16_features-amdegroot-88682ab5.pth", "ImageNet weights, resnet18-f37072fd.pth"
    assert origin(std, None, None) == vgg
    assert origin(cfr, Path("clean.ckpt"), None) == f"clean.ckpt; its discriminator from {resnet}"
    assert origin(cfr, Path("clean.ckpt"), "last.ckpt") == "the state in last.ckpt"
    std.weights = "hed.pth"
    assert origin(std, None, None) == "hed.pth"
    shapes = compose("train", "experiment=shapes_robustdet").model
    assert origin(shapes, None, None) == "random weights; its discriminator from random weights"


def test_random_weights_are_said_loudly_where_others_are_to_be_had(
    compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    tiny = ["experiment=shapes_std", "trainer.max_steps=1", "trainer.val_check_interval=1", "validation.max_images=1"]
    train(compose("train", *tiny))
    said = capsys.readouterr().out
    assert "shapes_std starts from random weights" in said
    assert RANDOM not in said
    monkeypatch.setattr(PlannedLayers, "trained", VGG16.trained)  # a real one takes half a minute
    cfg = compose("train", *tiny)
    cfg.paths.run = f"{cfg.paths.run}_vgg"
    train(cfg)
    assert RANDOM in capsys.readouterr().out
