"""torchvision's detectors as ours: its own losses and detections, image by image, and whose labels are whose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from robustdet.attacks import PGD, DetectorVictim, LInf, image_generators
from robustdet.attacks.cwa import ClassWise
from robustdet.detection.pretrained import cached_file
from robustdet.interop.torchvision_api import TorchvisionDetector
from robustdet.interop.torchvision_losses import Sampler, stages_of
from robustdet.interop.torchvision_models import TorchvisionModel
from tests.attacks.fakes import state
from tests.detection.conftest import make_target
from tests.interop.networks import FAST, NAMES, SIZE, settings, torchvision_model

SSDLITE = "ssdlite320_mobilenet_v3_large"


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


TARGETS = [make_target([[5, 5, 40, 40], [20, 20, 60, 60]], [1, 3]), make_target([[10, 4, 50, 30]], [2])]


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_torchvisions_own_of_each_image(name: str):
    model = torchvision_model(name)
    found = model.losses(model(images()), model.assign(TARGETS))
    network = model.network
    for module in (network, *stages_of(network)):
        module.training = True
    for stage in stages_of(network):
        stage.fg_bg_sampler = Sampler(stage.fg_bg_sampler.batch_size_per_image, stage.fg_bg_sampler.positive_fraction)
    for place, target in enumerate(TARGETS):
        theirs = network([images()[place]], [{"boxes": target.boxes, "labels": target.labels}])
        boxes = sum(value for key, value in theirs.items() if "box" in key)
        torch.testing.assert_close(found.localization[place], boxes, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.total[place], sum(theirs.values()), rtol=1e-3, atol=1e-4)
    assert found.num_positives.tolist() == [1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_neither_losses_nor_detections_change_the_network(name: str):
    model = torchvision_model(name)
    for training in (False, True):
        model.train(training)
        before = state(model)
        with torch.no_grad():
            model.losses(model(images()), model.assign(TARGETS))
            model.detect(model(images()))
        assert state(model) == before
        assert not any(one.training for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d))


def test_detections_are_torchvisions_own():
    model = torchvision_model(FAST)
    with torch.no_grad():
        ours, theirs = model.detect(model(images())), model.network(list(images()))
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.labels)
        torch.testing.assert_close(one.boxes, other["boxes"])
        assert torch.equal(one.labels, other["labels"])


def test_a_loss_is_the_same_at_every_look_and_drawn_anew_in_training():
    model = torchvision_model(FAST)
    for stage in stages_of(model.network):
        stage.fg_bg_sampler.batch_size_per_image = 8  # fewer than there are
    with torch.no_grad():
        first, again = (model.losses(model(images()), model.assign(TARGETS)).total for _ in range(2))
        drawn = [
            model.losses(model(images(), torch.Generator().manual_seed(seed)), model.assign(TARGETS)).total
            for seed in (0, 0, 1)
        ]
    assert torch.equal(first, again)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_sampler_takes_as_many_as_torchvisions_evenly():
    labels = torch.tensor([1, 0, 0, -1, 2, 0, 0, 1, 0, 0, 3])
    (positive,), (negative,) = Sampler(6, 0.5)([labels])
    assert positive.nonzero().flatten().tolist() == [0, 4, 7]
    assert negative.nonzero().flatten().tolist() == [1, 5, 8]
    (positive,), (negative,) = Sampler(20, 0.1)([labels])
    assert positive.sum() == 2
    assert torch.equal(negative.bool(), labels == 0)


class Fixed(torch.nn.Module):
    """Says what it is told to, with torchvision's labels."""

    def __init__(self, labels: list[int]) -> None:
        super().__init__()
        self.labels = labels

    def forward(self, images, targets=None):
        count = len(self.labels)
        scores = torch.linspace(0.1, 0.9, count)  # not best first
        return [{"boxes": torch.arange(4.0 * count).view(-1, 4), "labels": torch.tensor(self.labels), "scores": scores}]


def test_labels_without_a_class_are_no_detections_and_the_best_comes_first():
    detector = TorchvisionDetector(Fixed([1, 12, 13, 99]), 3, SIZE, ids=[1, 11, 13]).eval()
    (found,) = detector.detect(detector(images(1)))
    assert found.labels.tolist() == [3, 1]
    assert found.scores[0] > found.scores[1]
    assert detector.assign([make_target([[1, 1, 9, 9]], [2])])[0]["labels"].tolist() == [11]


def coco_file(folder: Path) -> Path:
    own = get_model_weights(SSDLITE).DEFAULT
    file = folder / cached_file(own).name
    torch.save(get_model(SSDLITE, weights=None, weights_backbone=None, num_classes=91).state_dict(), file)
    return file


def test_coco_means_torchvisions_own_file_and_its_80_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "checkpoints").mkdir()
    file = coco_file(tmp_path / "checkpoints")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = TorchvisionModel(**{**settings(SSDLITE), "weights": "coco"}, num_classes=3)
    assert model.file == file
    assert model.num_classes == len(model.classes) == 80
    assert (model.classes[0], model.classes[11], model.classes[-1]) == ("person", "stop sign", "toothbrush")
    assert model.theirs[[1, 11, 12, 80]].tolist() == [1, 11, 13, 90]


def test_a_file_of_ones_own_has_as_many_outputs_as_the_data_have_classes(tmp_path: Path):
    source = torchvision_model(SSDLITE)
    torch.save(source.network.state_dict(), tmp_path / "mine.pth")
    mine = {**settings(SSDLITE), "weights": str(tmp_path / "mine.pth")}
    model = TorchvisionModel(**mine, num_classes=3).eval()
    assert model.classes is None
    with torch.no_grad():
        torch.testing.assert_close(
            model.losses(model(images()), model.assign(TARGETS)).total,
            source.losses(source(images()), source.assign(TARGETS)).total,
        )
    assert TorchvisionModel(**mine, classes=["a", "b", "c"]).classes == ["a", "b", "c"]
    with pytest.raises(
        ValueError, match=r"mine\.pth does not fit this network:\n  head\.classification_head\S* has shape"
    ):
        TorchvisionModel(**mine, num_classes=4)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"name": "retinanet"}, "model.name=retinanet: torchvision has no such detector; known: fasterrcnn_mob"),
        ({"name": "maskrcnn_resnet50_fpn"}, "torchvision has no such detector"),
        ({"weights": "nowhere.pth"}, r"model\.weights=nowhere\.pth: no such file\. Also possible: model\.weights=coco"),
        ({"min_size": 64}, "model.min_size=64: ssdlite320_mobilenet_v3_large resizes to the one size that it has"),
        ({"num_classes": None}, r"has random weights and no classes: model\.classes=\[a,b,…\] names them"),
    ],
)
def test_what_cannot_be_built_is_named(changed: dict[str, object], text: str):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        TorchvisionModel(**{**settings(SSDLITE), "num_classes": 3, **changed})


def test_it_says_what_it_does_not_offer():
    attack = PGD(ClassWise(), LInf("8/255"), 1, "2/255")
    assert attack.needs == "scores"
    with pytest.raises(TypeError, match=r"CWA needs a victim .* that says how sure .*: got TorchvisionModel"):
        attack(DetectorVictim(torchvision_model(FAST)), images(), TARGETS, image_generators(0, ["a", "b"]))
    with pytest.raises(ValueError, match=r"expected images of shape \[B, 3, 64, 64\], got \[1, 3, 32, 32\]"):
        torchvision_model(SSDLITE)(torch.rand(1, 3, 32, 32))


def test_numbers_of_labels_lie_where_the_network_does():
    """Somebody's network may have moved before it is wrapped, as in the middle of a training of theirs."""
    found = TorchvisionDetector(torchvision_model(FAST).network.to("meta"), 3, SIZE)
    assert found.theirs.device == found.ours.device == torch.device("meta")
