"""`robustdet.train`: any detector with losses on any torch data set, by the methods of `src.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import robustdet
from robustdet.defences.standard import Standard
from robustdet.errors import InputError
from robustdet.interop.black_box import BlackBox
from robustdet.interop.torchvision_api import TorchvisionDetector
from tests.detection.conftest import build_detector
from tests.interop.networks import bright_boxes
from tests.test_lightning import Network, image, objects

CLASSES = ("a", "b", "c")


class Drawn(torch.utils.data.Dataset[Any]):
    classes = CLASSES

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return image(index, 40, 32), objects(index)


def detector() -> robustdet.LoadedDetector:
    torch.manual_seed(0)
    network = Network()
    return robustdet.LoadedDetector(TorchvisionDetector(network, 3, 32, norms="learning"), CLASSES, "theirs")


def few(folder: Path) -> list[str]:
    return [f"paths.run={folder}", "trainer=cpu", "attack.steps=2"]


def test_it_trains_the_detector_itself_and_watches_a_validation_set(tmp_path: Path):
    one = detector()
    before = {name: value.clone() for name, value in one.model.named_parameters()}
    given = [*few(tmp_path), "trainer.val_check_interval=2"]
    found = robustdet.train(one, Drawn(4), *given, updates=2, batch_size=2, epsilon="4/255", validation=Drawn(3))
    assert found.model is one.model
    assert found.classes == CLASSES
    assert not found.model.training
    assert all(not torch.equal(value, before[name]) for name, value in found.model.named_parameters())
    assert one.model.network.backbone[1].num_batches_tracked > 0  # it was in training mode meanwhile
    curves = next(tmp_path.rglob("metrics.csv")).read_text(encoding="utf-8")
    assert "val/AP50_attacked" in curves
    state = torch.load(tmp_path / "checkpoints" / "final.ckpt", weights_only=True)
    assert state["classes"] == list(CLASSES)
    assert torch.equal(state["state_dict"]["model.network.head.weight"], found.model.network.head.weight)
    assert len(robustdet.detect(found, [Drawn(1)[0][0].mul(255).byte().permute(1, 2, 0).numpy()])) == 1


@pytest.mark.parametrize("method", ["standard", "pgd_loc", Standard()])
def test_other_methods_and_the_same_seed_gives_the_same(method: Any, tmp_path: Path):
    ends = []
    for number in range(2):
        one = detector()
        overrides = [each for each in few(tmp_path / str(number)) if method == "pgd_loc" or "attack." not in each]
        robustdet.train(one, Drawn(4), *overrides, method=method, updates=2, batch_size=2, seed=7)
        ends.append(nn.utils.parameters_to_vector(one.model.parameters()))
    assert torch.equal(*ends)


def test_class_wise_training_of_one_with_raw_scores(tmp_path: Path):
    one = robustdet.LoadedDetector(build_detector("tiny_ssd", num_classes=3), CLASSES, "tiny")
    robustdet.train(one, Drawn(2), *few(tmp_path), method="cwa", updates=1, batch_size=2)
    assert (tmp_path / "checkpoints" / "final.ckpt").is_file()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": "cwa"}, r"theirs offers its losses, image by image, .* can be trained on: mtd \(MTD\), pgd_cls"),
        ({"method": "mdt"}, "mdt"),
        ({"method": "standard", "epsilon": "4/255"}, "epsilon=4/255: method=standard attacks nothing"),
        (
            {"epsilon": "4/255", "overrides": ["attack.threat.epsilon=2/255", "schedule.step_sizes=[8/255]"]},
            r"epsilon=4/255 is the size of the ball, .* and attack.threat.epsilon, schedule.step_sizes says a size too",
        ),
        ({"batch_size": 9}, "data: Drawn has 4 images, not enough for a batch of 9"),
        ({"data": [(image(0), objects(0, labels=torch.tensor([4])))] * 2}, r"list\[\d\]: labels from 4 to 4, expected"),
    ],
)
def test_what_cannot_be_trained_is_named(change: dict[str, Any], text: str, tmp_path: Path):
    overrides = [each for each in few(tmp_path) if "attack." not in each]
    given = {"data": Drawn(4), "updates": 1, "batch_size": 2, **change}
    data = given.pop("data")
    with pytest.raises(Exception, match=text):
        robustdet.train(detector(), data, *overrides, *given.pop("overrides", []), **given)


def test_it_has_a_folder_of_its_own_where_nobody_says_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    robustdet.train(detector(), Drawn(2), "trainer=cpu", method="standard", updates=1, batch_size=2)
    (final,) = tmp_path.rglob("final.ckpt")
    assert final.parent.parent.parent == tmp_path / "outputs" / "theirs"


def test_a_validation_without_any_object_is_named(tmp_path: Path):
    one = robustdet.LoadedDetector(build_detector("tiny_ssd", num_classes=3), CLASSES, "tiny")
    nothing = [(image(0, 40, 32), {name: value[:0] for name, value in objects(0).items()})] * 2
    given = [*few(tmp_path), "trainer.val_check_interval=1"]
    with pytest.raises(InputError, match="validation: none of the 2 images has an object to find, so there is no aver"):
        robustdet.train(one, Drawn(2), *given, updates=1, batch_size=2, validation=nothing)


@pytest.mark.parametrize(("updates", "seen"), [(9, 4), (1, 2)])
def test_data_without_any_object_are_refused_after_an_epoch_or_at_the_end(updates: int, seen: int, tmp_path: Path):
    one = robustdet.LoadedDetector(build_detector("tiny_ssd", num_classes=3), CLASSES, "tiny")
    found = objects(0)
    crowd = image(0, 40, 32), found | {"iscrowd": torch.ones_like(found["labels"])}
    text = (
        f"list has nothing to learn: none of the {seen} images that were seen has an object that is neither difficult"
    )
    with pytest.raises(InputError, match=text):
        robustdet.train(one, [crowd] * 4, *few(tmp_path)[:2], method="standard", updates=updates, batch_size=2)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "data.batch_size=7",
            "data.batch_size=7: nothing reads this, for the data are given as an object; batch_size=",
        ),
        ("data=voc", "data=voc: nothing reads this, for the data"),
        ("augmentation@data.augmentation=flip", "nothing reads this, for the data"),
        ("~model.backbone", "~model.backbone: nothing reads this, for the detector is given as an object"),
        ("warm_start.experiment=null", "for training starts from the detector as it is"),
        ("+callbacks/panels=detection", "only the command src.train reads this"),
        ("speed=fast", "speed=fast: a profile is of the command src.train; trainer.precision= and optimizer.fused="),
    ],
)
def test_what_nothing_reads_is_refused(override: str, text: str, tmp_path: Path):
    with pytest.raises(InputError, match=text):
        robustdet.train(detector(), Drawn(4), *few(tmp_path), override, updates=1, batch_size=2)
    if not override.startswith(("warm_start", "+callbacks", "speed")):  # which no evaluation reads
        with pytest.raises(InputError, match=text):
            robustdet.evaluate(detector(), Drawn(4), f"paths.run={tmp_path}", override, batch_size=2)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("method", "override", "text"),
    [
        ("standard", "attack.steps=2", "attack.steps=2: nothing reads this, for the method is Standard"),
        ("mtd", "loss.gamma=0.3", "loss.gamma=0.3: nothing reads this, for the method is AdversarialTraining"),
        (Standard(), "schedule=full", "schedule=full: nothing reads this, for the method is given as an object"),
    ],
)
def test_what_the_method_does_not_read_is_refused(method: Any, override: str, text: str, tmp_path: Path):
    with pytest.raises(InputError, match=text):
        robustdet.train(detector(), Drawn(4), *few(tmp_path)[:2], override, method=method, updates=1, batch_size=2)


def test_detections_alone_are_no_losses(tmp_path: Path):
    box = BlackBox(function=bright_boxes, input_size=32, name="bright", classes=list(CLASSES))
    with pytest.raises(ValueError, match="bright offers its detections alone, and training needs losses"):
        robustdet.train(box, Drawn(4), *few(tmp_path), updates=1, batch_size=2)
