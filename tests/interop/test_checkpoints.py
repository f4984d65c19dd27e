from __future__ import annotations

import copy
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16

from robustdet.errors import InputError
from robustdet.interop.checkpoints import COCO_UNUSED_IDS, load_checkpoint, to_authors
from tests.detection.conftest import build_detector


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.nn.Module]:
    return {name: build_detector(name) for name in ("tiny_ssd", "tiny_robust_ssd", "tiny_robust_ssd_cfr")}


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("name", ["tiny_ssd", "tiny_robust_ssd", "tiny_robust_ssd_cfr"])
def test_export_in_the_authors_names_and_import_is_exact(tiny, name: str, tmp_path: Path) -> None:
    state = tiny[name].state_dict()
    exported = to_authors(state)
    assert {"vgg.0.weight", "extras.1.weight", "loc.0.weight", "conf.0.bias"} <= exported.keys()
    loaded = load_checkpoint(save(exported, tmp_path / "theirs.pth"))
    assert_equal(loaded.state_dict, dict(state))
    kinds = {
        "tiny_ssd": "an SSD of ssd.pytorch or the authors",
        "tiny_robust_ssd": "the authors' RobustDet",
        "tiny_robust_ssd_cfr": "the authors' RobustDet with CFR",
    }
    assert loaded.description == kinds[name]


@pytest.mark.parametrize("wrap", [False, True])
def test_our_own_files(tiny, wrap: bool, tmp_path: Path) -> None:
    state = dict(tiny["tiny_ssd"].state_dict())
    lightning = {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()} | {"suite.count": torch.zeros(())},
        "global_step": 600,
        "method": {"schedule": {"targets": None}},
    }
    loaded = load_checkpoint(save(lightning if wrap else state, tmp_path / "ours.ckpt"))
    assert_equal(loaded.state_dict, state)
    assert loaded.description == ("a training checkpoint after 600 updates" if wrap else "a state dict")


@pytest.mark.slow
def test_torchvisions_ssd300_computes_the_same_with_our_code(tmp_path: Path) -> None:
    theirs = ssd300_vgg16(weights=None, weights_backbone=None).eval()
    loaded = load_checkpoint(save(theirs.state_dict(), tmp_path / "torchvision.pth"))
    assert loaded.description == "torchvision's SSD300 with 91 outputs a box, less the 10 that COCO does not use"
    ours = build_detector("ssd300_coco", num_classes=80)
    ours.load_state_dict(loaded.state_dict)
    images = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw = ours(images)
        batch, _ = theirs.transform(list(images))
        features = list(theirs.backbone(batch.tensors).values())
        expected = theirs.head(features)
        boxes = theirs.anchor_generator(batch, features)[0]
    used = [label for label in range(91) if label not in COCO_UNUSED_IDS]
    assert len(used) == 81
    scale = expected["cls_logits"].std().item()
    torch.testing.assert_close(raw.cls_logits, expected["cls_logits"][..., used], rtol=1e-3, atol=1e-3 * scale)
    scale = expected["bbox_regression"].std().item()
    torch.testing.assert_close(raw.bbox_regression, expected["bbox_regression"], rtol=1e-3, atol=1e-3 * scale)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 600, (boxes[:, 2:] - boxes[:, :2]) / 300
    outside = (centre > 1.001).any(dim=1)
    assert int(outside.sum()) == 19 * 6  # of the 10 x 10 map, whose last row and column lie beyond the image
    torch.testing.assert_close(centre[centre > 1.001], torch.full((120,), 304 / 300))
    boxes = torch.cat([centre.clamp(max=1), size], dim=1)
    torch.testing.assert_close(raw.default_boxes, boxes, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_torchvisions_networks_of_other_data_keep_all_outputs(tmp_path: Path) -> None:
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21)
    loaded = load_checkpoint(save(theirs.state_dict(), tmp_path / "torchvision.pth"))
    assert loaded.description == "torchvision's SSD300 with 21 outputs a box"
    expected = {name: tensor.shape for name, tensor in build_detector("ssd300").state_dict().items()}
    assert {name: tensor.shape for name, tensor in loaded.state_dict.items()} == expected


def test_a_tensor_that_is_missing_left_over_or_misshapen_is_named(tiny, tmp_path: Path) -> None:
    exported = to_authors(tiny["tiny_ssd"].state_dict())
    del exported["vgg.2.bias"]
    exported["vgg.0.weight"] = torch.zeros(1, 3, 3, 3)
    exported["nobody.knows"] = torch.zeros(1)
    state = load_checkpoint(save(exported, tmp_path / "broken.pth")).state_dict
    network = copy.deepcopy(tiny["tiny_robust_ssd_cfr"])
    with pytest.raises(ValueError, match="does not fit") as start:
        network.warm_start(state)
    for text in (
        "missing: backbone.layers.2.bias",
        "left over: nobody.knows",
        "backbone.layers.0.weight has shape (1, 3, 3, 3) instead of (16, 3, 3, 3)",
    ):
        assert text in str(start.value)
    assert_equal(dict(network.state_dict()), dict(tiny["tiny_robust_ssd_cfr"].state_dict()))
    with pytest.raises(RuntimeError) as load:
        copy.deepcopy(tiny["tiny_ssd"]).load_state_dict(state)
    for text in (
        'Missing key(s) in state_dict: "backbone.layers.2.bias"',
        '"nobody.knows"',
        "backbone.layers.0.weight",
    ):
        assert text in str(load.value)


def test_errors_name_the_file_and_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.pth"):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=r"other\.pth is no SSD: expected backbone\.layers.*found \['conv1.weight'\]"):
        load_checkpoint(save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"list\.pth holds a list, expected tensors by name"):
        load_checkpoint(save([1], tmp_path / "list.pth"))


class Unsafe:
    def __reduce__(self) -> tuple:
        return (print, ("this must never run",))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_file_is_never_run(writer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "unsafe.pth"
    if writer == "torch":
        torch.save({"vgg.0.weight": Unsafe()}, path)
    else:
        path.write_bytes(pickle.dumps({"vgg.0.weight": Unsafe()}, protocol=2))
    with pytest.raises(ValueError, match=r"unsafe\.pth is no checkpoint that is safe to read"):
        load_checkpoint(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}, "args": Namespace(lr=0.1)},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3},
        lambda state: {"state_dict": {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_weights_inside_of_other_things(tiny, wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path) -> None:
    state = dict(tiny["tiny_ssd"].state_dict())
    assert_equal(load_checkpoint(save(wrap(state), tmp_path / "wrapped.pth")).state_dict, state)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"state_dict": None}, r"state_dict is a NoneType, expected a dense tensor"),
        ({"state_dict": {}}, r"\['state_dict'\] is empty, expected tensors by name"),
        ({"state_dict": {"model.backbone.layers.0.weight": torch.tensor([float("nan")])}}, "NaN or infinite"),
        ({"state_dict": {"model.x": torch.zeros(1)}, "classes": 3}, r"\['classes'\] should be a list of names, got 3"),
    ],
)
def test_what_is_no_weights_is_said(content: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text):
        load_checkpoint(save(content, tmp_path / "some.pth"))
