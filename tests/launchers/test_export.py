"""`src.export`, and what it wrote, evaluated as somebody else's detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from robustdet.cli.building import build
from robustdet.cli.evaluate import evaluate
from robustdet.cli.export import run

FEW = ("data.source.train=4", "data.source.val=2", "data.source.test=4", "data.eval_batch_size=4")
SMALL = (
    "experiment=shapes_std",
    "model.backbone.plan='8s2 8s2 M 16^ M 16^'",
    "model.extras.plan='16s2^ 16p0^'",
    "model.extras.in_channels=16",
    "model.head_std=0.1",
    *FEW,
)


@pytest.fixture
def checkpoint(compose: Callable[..., DictConfig], tmp_path: Path) -> Path:
    model = build(compose("train", *SMALL)).model
    torch.save(model.state_dict(), tmp_path / "small.ckpt")
    return tmp_path / "small.ckpt"


@pytest.mark.slow
def test_an_exported_checkpoint_is_measured_as_the_checkpoint(
    compose: Callable[..., DictConfig], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    file = tmp_path / "there" / "small.onnx"
    run(compose("export", *SMALL, f"ckpt_path={checkpoint}", f"output={file}"))
    said = capsys.readouterr().out
    assert f"small: {file} (" in said
    assert "classes cross, disc, ring, square, star, triangle" in said
    same, total = said.partition("On 3 images of noise it agrees in ")[2].split()[0:3:2]
    assert same == total != "0"

    wanted = ("attack=noise", "results=[coco,voc]", "pictures=0")
    ours = evaluate(
        compose("evaluate", *SMALL, f"ckpt_path={checkpoint}", f"paths.run={tmp_path / 'a'}", *wanted), wanted
    )
    named = ("model=onnx", "model.name=small", f"model.function.file={file}", "data=shapes", *FEW)
    cfg = compose("evaluate", *named, f"paths.run={tmp_path / 'b'}", *wanted)
    assert cfg.model.input_size == cfg.data.image_size == 96
    theirs = evaluate(cfg, wanted)
    assert [one.attack for one in ours] == [one.attack for one in theirs] == ["clean", "noise"]
    for one, other in zip(ours, theirs, strict=True):
        assert other.map == pytest.approx(one.map, abs=1e-6)
    folders = [tmp_path / place / "evaluation" / "attack_noise" / "results" for place in ("a", "b")]
    first, second = (json.loads((folder / "clean.json").read_text(encoding="utf-8")) for folder in folders)
    assert len(first) == len(second) > 100
    assert sum(one["score"] for one in first) == pytest.approx(sum(one["score"] for one in second), rel=1e-5)
    written = {str(path.relative_to(folders[0])) for path in folders[0].rglob("*.*")}
    assert written >= {"annotations.json", "clean.json", "noise.json", "noise/det_test_star.txt"}


def test_one_detector_is_exported(compose: Callable[..., DictConfig], checkpoint: Path, tmp_path: Path):
    twice = f"ckpt_path={{a:{checkpoint},b:{checkpoint}}}"
    with pytest.raises(ValueError, match=r"src\.export writes one detector, got 2: a, b"):
        run(compose("export", *SMALL, twice, f"output={tmp_path / 'a.onnx'}"))
