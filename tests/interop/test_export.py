"""Exported files find what the detector finds, in batches of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robustdet.defences.aa_conv import AAConv2d
from robustdet.detection.ssd import SSD
from robustdet.interop.export import Exportable, export, suppressed
from robustdet.interop.exported import agreement, reader
from robustdet.interop.onnx_file import OnnxFile, side_of
from tests.attacks import fakes
from tests.detection.conftest import build_detector

SIZE = 96
CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def robust() -> SSD:
    """AA-convolutions, discriminator and CFR, small; says different things of different images."""
    torch.manual_seed(1)
    few_layers = [
        "backbone.plan='8s2 8s2 M 16^ M 16^'",
        "extras.plan='16s2^ 16p0^'",
        "extras.in_channels=16",
        "cfr.tap=5",
    ]
    return build_detector(
        "tiny_robust_ssd_cfr", [*few_layers, "head_std=0.1", "num_kernels=2"], num_classes=len(CLASSES)
    )


def noise(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def onnx_file(robust: SSD, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    file = tmp_path_factory.mktemp("exported") / "robust.onnx"
    export(robust, file, "onnx", CLASSES, "mine")
    return file


def assert_agrees(detector: SSD, file: Path, kind: str, count: int) -> None:
    found = agreement(detector, reader(file, kind), noise(count))
    assert found.of > 20 * count
    assert found.same == found.of
    assert found.pixels < 1e-3
    assert found.score < 1e-5


@pytest.mark.slow
def test_onnxruntime_finds_what_the_detector_finds_in_a_batch_of_any_size(robust: SSD, onnx_file: Path):
    for count in (1, 3):
        assert_agrees(robust, onnx_file, "onnx", count)
    assert {one.execution for one in robust.modules() if isinstance(one, AAConv2d)} == {"auto"}  # as it was


def test_an_onnx_file_says_its_classes_and_its_size(onnx_file: Path):
    assert OnnxFile(onnx_file).classes == CLASSES
    assert side_of(onnx_file) == SIZE
    assert side_of(onnx_file.with_name("none.onnx")) is None


@pytest.mark.slow
def test_torch_export_finds_what_the_detector_finds_in_a_batch_of_any_size(robust: SSD, tmp_path: Path):
    file = tmp_path / "robust.pt2"
    export(robust, file, "torch_export", CLASSES, "mine")
    for count in (1, 3):
        assert_agrees(robust, file, "torch_export", count)
    said = {"robustdet.json": ""}
    torch.export.load(file, extra_files=said)
    assert '"input_size": "96"' in said["robustdet.json"]


@pytest.mark.parametrize("settings", [{"max_detections": None}, {"candidates_per_class": 5}, {"score_threshold": 0.9}])
def test_the_graph_does_what_post_processing_does(settings: dict[str, float]):
    torch.manual_seed(0)
    detector = build_detector("tiny_ssd", ["head_std=0.1"], num_classes=3)
    for name, value in settings.items():
        object.__setattr__(detector.post_processing, name, value)
    images = noise(3)
    with torch.no_grad():
        boxes, scores, labels = Exportable(detector, suppressed)(images)
        for place, ours in enumerate(detector.detect(detector(images))):
            real = scores[place] > 0
            assert real.sum() == len(ours.labels)
            torch.testing.assert_close(scores[place, real], ours.scores)
            torch.testing.assert_close(boxes[place, real], ours.boxes)
            assert torch.equal(labels[place, real], ours.labels)
            assert not boxes[place, ~real].any()
            assert not labels[place, ~real].any()


def test_an_image_that_breaks_the_network_has_no_detections_and_does_no_harm_to_others():
    detector = build_detector("tiny_ssd", ["head_std=0.1"], num_classes=3)
    images = noise(2)
    detector.check(images)  # which looks at values once
    images[0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        _, scores, _ = Exportable(detector, suppressed)(images)
    assert not scores[0].any()
    assert scores[1].any()


def test_what_cannot_be_exported_is_said(robust: SSD, tmp_path: Path):
    with pytest.raises(TypeError, match="FakeDetector cannot be exported here: expected an SSD or a RobustSSD"):
        export(fakes.detector(), tmp_path / "a.onnx", "onnx", CLASSES, "a")
    training: nn.Module = build_detector("tiny_ssd", num_classes=3).train()
    with pytest.raises(ValueError, match="the detector is in training mode"):
        export(training, tmp_path / "a.onnx", "onnx", CLASSES, "a")
    assert not list(tmp_path.iterdir())
