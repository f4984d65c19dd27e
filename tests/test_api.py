"""The public functions, on a tiny detector without data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import robustdet
from robustdet.api import require_picture
from robustdet.attacks import PGD, LInf
from robustdet.attacks.objectives import a_cls
from robustdet.data.datamodule import DetectionDataModule
from robustdet.data.shapes_set import Shapes
from tests.analysis.figures.conftest import CLASSES, SIZE, detector
from tests.detection.conftest import build_detector
from tests.evaluation import scenes
from tests.interop.networks import FAST, torchvision_model

NOISE = np.random.default_rng(0).integers(0, 256, (2, 60, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def loaded() -> robustdet.LoadedDetector:
    return robustdet.LoadedDetector(detector(), tuple(CLASSES), "tiny")


def test_files_and_bytes_one_and_several(loaded: robustdet.LoadedDetector, tmp_path: Path):
    Image.fromarray(NOISE[0]).save(tmp_path / "0.png")
    (one,) = robustdet.detect(loaded, tmp_path / "0.png", threshold=0.2)
    (named,) = robustdet.detect(loaded, str(tmp_path / "0.png"), threshold=0.2)
    several = robustdet.detect(loaded, [NOISE[0], NOISE[1]], threshold=0.2)
    assert len(one.labels) > 0
    assert len(several) == 2
    for same in (named, several[0]):
        assert torch.equal(same.boxes, one.boxes)
        assert torch.equal(same.scores, one.scores)
    assert (one.scores > 0.2).all()
    assert (one.boxes <= torch.tensor([120, 60, 120, 60])).all()
    assert one.boxes[:, 2].max() > 60  # pixels of the photograph, not of the input


def test_an_attack_stays_in_its_ball_and_depends_on_one_image_alone(loaded: robustdet.LoadedDetector):
    pictures = [NOISE[0, :50, :70], NOISE[1]]
    both = robustdet.attack(loaded, pictures, "pgd_cls", "attack.steps=2", threshold=0.2)
    alone = robustdet.attack(loaded, pictures[1], "pgd_cls", "attack.steps=2", threshold=0.2)
    assert both.shape == (2, 3, SIZE, SIZE)
    assert torch.equal(both[1:], alone)
    again = robustdet.attack(loaded, both, PGD(a_cls, LInf("2/255"), 1, "2/255"), threshold=0.2)
    assert 0 < float((again - both).abs().max()) <= 2 / 255 + 1e-6
    assert len(robustdet.detect(loaded, again)) == 2


def test_given_targets_count_and_must_be_as_many(loaded: robustdet.LoadedDetector):
    target = scenes.target("mine", [[10.0, 10.0, 60.0, 70.0]], [1])
    attacked = robustdet.attack(loaded, NOISE[0], "pgd_cls", "attack.steps=1", targets=[target], threshold=1.0)
    assert attacked.shape == (1, 3, SIZE, SIZE)
    with pytest.raises(ValueError, match="got 1 images but 2 targets"):
        robustdet.attack(loaded, NOISE[0], targets=[target, target])


def test_what_cannot_be_is_said(loaded: robustdet.LoadedDetector, tmp_path: Path):
    with pytest.raises(ValueError, match="nothing to attack in image 0: no detection has a score above 1; lower it"):
        robustdet.attack(loaded, NOISE[0], threshold=1.0)
    with pytest.raises(ValueError, match=r"tiny takes images of 96 x 96 pixels, and these have \(64, 64\)"):
        robustdet.detect(loaded, torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        robustdet.detect(loaded, 255 * torch.rand(1, 3, SIZE, SIZE))
    with pytest.raises(ValueError, match="there are no images to attack"):
        robustdet.attack(loaded, [])
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist"):
        robustdet.load_detector(tmp_path / "none.ckpt")
    (tmp_path / "theirs.ckpt").touch()
    with pytest.raises(ValueError, match="give experiment=… as well"):
        robustdet.load_detector(tmp_path / "theirs.ckpt")


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (NOISE[0] / 255.0, r"image 3 is float64 \[\d+, \d+, 3\], expected RGB bytes, uint8 \[H, W, 3\]"),
        (NOISE[0][..., 0], r"image 3 is uint8 \[\d+, \d+\], expected RGB bytes"),
        (np.concatenate([NOISE[0], NOISE[0]], axis=2), r"image 3 is uint8 \[\d+, \d+, 6\], expected RGB bytes"),
        (Image.new("RGB", (9, 9)), r"image 3 is a Image, expected a file or RGB bytes .*, such as numpy\.asarray\("),
        (
            torch.rand(3, 9, 9),
            "image 3 is a Tensor, expected a file or RGB bytes .* all images in one tensor",
        ),
    ],
)
def test_what_is_no_picture_is_said(picture: Any, text: str):
    with pytest.raises(ValueError, match=text):
        require_picture(picture, 3)


class Drawn:
    """Somebody's data set: two images of another size than the detector's input."""

    name = "drawn"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, list[Any]]]:
        return torch.from_numpy(NOISE[index]).permute(2, 0, 1), {"boxes": [[10, 12, 60, 50]], "labels": [1 + index]}


def test_a_detector_is_evaluated_on_a_torch_data_set(tmp_path: Path):
    model = detector()
    given = ("attack=noise", "pictures=0", f"paths.outputs={tmp_path}")
    records = robustdet.evaluate(model, Drawn(), *given)
    assert [record.attack for record in records] == ["clean", "noise"]
    clean = records[0]
    assert (clean.run.experiment, clean.run.data, clean.run.split_size) == ("SSD", "drawn", 2)
    assert clean.run.method == "not trained here"
    assert clean.num_images == 2
    assert (tmp_path / "SSD" / "drawn" / "evaluation" / "attack_noise" / "records" / "noise.json").is_file()
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    other = robustdet.evaluate(model, Drawn(), *given)[0]
    assert other.run.checkpoint_sha256 != clean.run.checkpoint_sha256

    page = robustdet.report([*records, other], tmp_path / "page")
    assert page == tmp_path / "page" / "report.html"
    assert all(record.run.checkpoint_sha256[:8] in page.read_text(encoding="utf-8") for record in (clean, other))
    from_files = robustdet.report(tmp_path / "SSD", tmp_path / "again", title="mine")
    assert "<title>mine" in from_files.read_text(encoding="utf-8")


def test_a_detector_is_evaluated_on_a_data_module_of_ours(data_folder: Path, tmp_path: Path):
    shapes = Shapes(data_folder / "shapes", size=SIZE, train=2, val=2, test=2)
    module = DetectionDataModule(lambda root, download: shapes, data_folder, SIZE, 2, 2)
    loaded = robustdet.LoadedDetector(build_detector("tiny_ssd", num_classes=6), tuple(shapes.classes), "mine")
    loaded.model.eval()
    record, _ = robustdet.evaluate(loaded, module, "attack=noise", f"paths.run={tmp_path}", "pictures=0")
    assert (record.attack, record.run.experiment, record.run.data) == ("clean", "mine", "shapes")
    with pytest.raises(ValueError, match="other takes images of 64 pixels, but those of shapes come in 96"):
        robustdet.evaluate(robustdet.LoadedDetector(torchvision_model(FAST), (), "other"), module)


def test_epsilon_is_the_ball_and_its_steps(loaded: robustdet.LoadedDetector):
    image = torch.rand(1, 3, SIZE, SIZE) * 0.8 + 0.1
    attacked = robustdet.attack(loaded, image, "pgd_cls", "attack.steps=1", threshold=0.0, epsilon="2/255")
    assert abs(float((attacked - image).abs().max()) - 2 / 255) < 1e-6
    for attack, epsilon, text in (
        ("dag", "2/255", "epsilon=2/255: no L∞ ball bounds dag"),
        ("pgd_cls", 0, "epsilon=0: expected a size above 0, such as 4/255"),
        (PGD(a_cls, LInf("2/255"), 1, "2/255"), 0.1, "epsilon=0.1 is of an attack by its name: PGD has its own"),
    ):
        with pytest.raises(ValueError, match=text):
            robustdet.attack(loaded, image, attack, threshold=0.0, epsilon=epsilon)


def test_what_is_no_detector_no_data_and_no_record_is_named(loaded: robustdet.LoadedDetector, tmp_path: Path):
    with pytest.raises(TypeError, match=r"expected a detector, got Identity: robustdet\.load_detector\(…\), a module"):
        robustdet.detect(torch.nn.Identity(), NOISE[0])
    with pytest.raises(ValueError, match=r"data is missing: a torch data set of \(image, \{boxes, labels\}\)"):
        robustdet.evaluate(loaded)
    with pytest.raises(TypeError, match="report: expected records, or folders that hold some, got nothing"):
        robustdet.report([])
    with pytest.raises(FileNotFoundError, match="no records"):
        robustdet.report(tmp_path)
