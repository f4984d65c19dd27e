"""A detector that was not made here, trained by the same command: its run is looked at as any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torchvision.models import get_model
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as faster_rcnn

from robustdet.cli.building import build
from robustdet.cli.clean_stage import stage_config
from robustdet.cli.start import freezes_random_norms
from robustdet.cli.subjects import checkpoints, subject
from robustdet.cli.train import train
from robustdet.interop.torchvision_models import TorchvisionModel
from robustdet.training.module import DetectionModule
from tests.detection.conftest import make_target
from tests.interop.networks import FAST, SIZE, settings

SSDLITE = "ssdlite320_mobilenet_v3_large"
Compose = Callable[..., DictConfig]
FEW = ("trainer.max_steps=1", "trainer.limit_val_batches=0", "callbacks=none", "logger=none", "data.batch_size=1")
WITHOUT_STAGE = ("experiment=shapes_torchvision_mtd", "warm_start.experiment=null")
SMALL = (f"model.name={FAST}", "model.min_size=64")


@pytest.mark.slow
def test_its_run_is_loaded_as_any_other(compose: Compose):
    cfg = compose("train", *WITHOUT_STAGE, *SMALL, *FEW)
    before = build(cfg).model
    file = train(cfg)
    found = next(iter(checkpoints(compose("evaluate", f"ckpt_path={file}")).values()))
    data = build(cfg).data
    model = subject("one", found, data).model
    assert isinstance(model, TorchvisionModel)
    assert not model.training
    state = model.state_dict()
    learnt = [name for name, value in before.named_parameters() if not torch.equal(value, state[name])]
    assert len(learnt) > len(list(before.parameters())) / 2
    assert any("running_mean" in name and bool(value.any()) for name, value in state.items())  # its norms learnt
    again = DetectionModule.load_from_checkpoint(file).model.eval()
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    targets = [make_target([[10, 10, 50, 60]], [2])]
    with torch.no_grad():
        assert all(
            torch.equal(getattr(one, part), getattr(other, part))
            for one, other in [[each.losses(each(image), each.assign(targets)) for each in (model, again)]]
            for part in ("classification", "localization")
        )


def test_its_clean_stage_has_its_network(compose: Compose):
    stage = stage_config(compose("train", "experiment=shapes_mtd", "model=torchvision", *SMALL, "model.weights=null"))
    assert (stage.name, stage.model.name, stage.model.min_size) == ("shapes_std", FAST, 64)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["experiment=shapes_cwat", "model=torchvision", f"model.name={FAST}"],
            rf"model\.name={FAST} offers its losses, image by image, and this method's attack \(PGD on ClassWise\) "
            r"asks for raw scores of every place\. What such a detector can be trained on: mtd \(MTD\), pgd_cls or",
        ),
        (
            ["experiment=shapes_std", "model=black_box", "model.name=mine", "model.function.path=builtins.len"],
            r"model\.name=mine offers its detections alone, and training needs losses with gradients: model=torchv",
        ),
    ],
)  # fmt: skip
def test_what_it_lacks_is_said_before_anything_is_done(overrides: list[str], text: str, compose: Compose):
    cfg = compose("train", *overrides, "model.input_size=96")
    with pytest.raises(ValueError, match=text):
        train(cfg)
    assert not Path(cfg.paths.run).exists()


def test_random_norms_that_stay_are_warned_of(compose: Compose):
    cfg = compose("train", *WITHOUT_STAGE, *SMALL)
    model = build(cfg).model
    assert not freezes_random_norms(model, cfg.model)
    cfg.model.norms = "frozen"
    assert freezes_random_norms(model, cfg.model)
    cfg.model.weights = "mine.pth"
    assert not freezes_random_norms(model, cfg.model)


@pytest.mark.parametrize("norms", ["frozen", "learning"])
def test_norms_learn_from_the_batch_where_they_are_told_to(norms: str):
    torch.manual_seed(0)
    model = TorchvisionModel(**{**settings(FAST), "norms": norms}, num_classes=3)  # type: ignore[arg-type]
    statistics = {name: value.clone() for name, value in model.named_buffers() if "running_" in name}
    images = torch.rand(2, 3, SIZE, SIZE)
    model.losses(model(images), model.assign([make_target([[5, 5, 40, 40]], [1])] * 2)).total.sum().backward()
    moved = [not torch.equal(value, statistics[name]) for name, value in model.named_buffers() if name in statistics]
    assert all(moved) if norms == "learning" else not any(moved)
    model.eval()
    kept = {name: value.clone() for name, value in model.named_buffers()}
    model.losses(model(images), model.assign([make_target([[5, 5, 40, 40]], [1])] * 2))
    assert all(torch.equal(value, kept[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("name", [FAST, SSDLITE])
def test_heads_keep_what_they_know_of_a_class_by_its_name(name: str, tmp_path: Path):
    torch.manual_seed(1)
    source = TorchvisionModel(**settings(name), num_classes=3)  # type: ignore[arg-type]
    torch.save(source.network.state_dict(), tmp_path / "mine.pth")
    mine = {**settings(name), "weights": str(tmp_path / "mine.pth"), "classes": ["cat", "dog", "cow"]}
    model = TorchvisionModel(**mine, num_classes=2).eval()  # type: ignore[arg-type]
    model.learn(["cow", "horse", "cat", "owl"])
    assert (model.classes, model.num_classes) == (["cow", "horse", "cat", "owl"], 4)
    before, after = source.network.state_dict(), model.network.state_dict()
    assert after.keys() == before.keys()
    heads = [one for one in after if after[one].shape != before[one].shape]
    assert heads
    assert all(torch.equal(after[one], before[one]) for one in after if one not in heads)
    for head in heads:
        if "bbox_pred" in head:
            old, new = (state[head].unflatten(0, (outputs, 4)) for state, outputs in ((before, 4), (after, 5)))
        else:
            rows = (state[head].unflatten(0, (-1, outputs)) for state, outputs in ((before, 4), (after, 5)))
            old, new = (each.transpose(0, 1) for each in rows)
        for label, theirs in {0: 0, 1: 3, 3: 1}.items():
            assert torch.equal(new[label], old[theirs])
    with torch.no_grad():
        images = torch.rand(1, 3, SIZE, SIZE)
        assert model.losses(model(images), model.assign([make_target([[5, 5, 40, 40]], [4])])).total.isfinite().all()


def test_a_detector_whose_classes_nobody_can_tell_learns_as_many():
    model = TorchvisionModel(**settings(FAST), num_classes=3)  # type: ignore[arg-type]
    network = model.network
    model.learn(["a", "b", "c"])
    assert model.network is network
    with pytest.raises(ValueError, match=f"{FAST} knows the classes 3, the data have a, b"):
        model.learn(["a", "b"])


def test_a_backbone_starts_from_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(2)
    trained = get_model("mobilenet_v3_large", weights=None).state_dict()
    torch.save(trained, tmp_path / "checkpoints" / "mobilenet_v3_large-8738ca79.pth")
    model = TorchvisionModel(**{**settings(FAST), "weights": "imagenet"}, num_classes=3)  # type: ignore[arg-type]
    body = model.network.backbone.body.state_dict()
    assert all(torch.equal(value, trained[f"features.{name}"]) for name, value in body.items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.file is None
    assert type(model.network) is type(faster_rcnn(weights=None, weights_backbone=None))
