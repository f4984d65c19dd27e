from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from robustdet.detection.ssd import SSD
from robustdet.errors import InputError
from robustdet.types import Detector
from tests.detection.conftest import CONF, Build, make_target, random_target

NAMES = ["ssd300", "ssd300_coco", "tiny_ssd"]


@pytest.fixture
def tiny(build: Build) -> SSD:
    return build("tiny_ssd", num_classes=6)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "num_boxes", "num_classes"), [("ssd300", 8732, 20), ("ssd300_coco", 8732, 80), ("tiny_ssd", 760, 6)]
)
def test_every_yaml_is_a_detector(build: Build, name: str, num_boxes: int, num_classes: int) -> None:
    detector = build(name, [] if name == "tiny_ssd" else ["+backbone.width=0.05", "extras.in_channels=51"], num_classes)
    assert isinstance(detector, Detector)
    size = detector.input_size
    raw = detector(torch.rand(1, 3, size, size))
    assert raw.cls_logits.shape == (1, num_boxes, num_classes + 1)
    assert raw.bbox_regression.shape == (1, num_boxes, 4)
    assignment = detector.assign([make_target([(10, 10, 60, 50)])])
    losses = detector.losses(raw, assignment)
    assert losses.total.isfinite().all()
    assert detector.box_losses(raw, assignment).cross_entropy.shape == (1, num_boxes)
    assert len(detector.detect(raw)) == 1


def test_ssd300_has_its_number_of_parameters(build: Build) -> None:
    assert sum(p.numel() for p in build("ssd300").parameters()) == 26_285_486
    assert sum(p.numel() for p in build("ssd300_coco", num_classes=80).parameters()) == pytest.approx(34.3e6, rel=2e-3)


def test_the_tiny_one_takes_other_sizes(build: Build) -> None:
    detector = build("tiny_ssd", ["input_size=128"])
    raw = detector(torch.rand(1, 3, 128, 128))
    assert raw.cls_logits.shape[1] == len(raw.default_boxes) == 4 * (16**2 + 8**2 + 4**2 + 2**2)


def test_training_and_evaluation_mode_say_the_same(tiny: SSD, images: torch.Tensor) -> None:
    evaluated, trained = tiny.eval()(images), tiny.train()(images)
    assert type(evaluated) is type(trained)
    for field in fields(evaluated):
        assert torch.equal(getattr(evaluated, field.name), getattr(trained, field.name))


def test_a_batch_is_predicted_as_its_images_one_by_one(tiny: SSD, images: torch.Tensor) -> None:
    together = tiny(images)
    for row in range(2):
        alone = tiny(images[row : row + 1])
        torch.testing.assert_close(alone.cls_logits[0], together.cls_logits[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.bbox_regression[0], together.bbox_regression[row], atol=1e-5, rtol=1e-5)


def test_memory_format_changes_nothing(tiny: SSD, images: torch.Tensor) -> None:
    expected = tiny(images).cls_logits
    ours = tiny.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last)).cls_logits
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_an_untrained_tiny_net_says_background(tiny: SSD, images: torch.Tensor) -> None:
    assert (tiny(images).cls_logits.argmax(-1) == 0).float().mean() > 0.9


def test_gradients_reach_the_images(tiny: SSD, images: torch.Tensor) -> None:
    images.requires_grad_()
    raw = tiny(images)
    losses = tiny.losses(raw, tiny.assign([make_target([(10, 10, 40, 50)]), make_target([])]))
    (gradient,) = torch.autograd.grad(losses.total.sum(), images)
    assert gradient[0].abs().sum() > 0
    assert not gradient[1].any()


def test_normalisation_is_per_channel(build: Build, images: torch.Tensor) -> None:
    tiny = build("tiny_ssd", ["normalisation.mean=[123,117,104]", "normalisation.std=[58,57,57]"])
    pixels = tiny.normalisation(images)
    torch.testing.assert_close(pixels[:, 0], (images[:, 0] * 255 - 123) / 58)
    torch.testing.assert_close(pixels[:, 2], (images[:, 2] * 255 - 104) / 57)


def test_settings_are_no_weights(tiny: SSD) -> None:
    assert "default_boxes" not in tiny.state_dict()
    assert {name.split(".")[0] for name in tiny.state_dict()} == {
        "backbone",
        "extras",
        "classification_head",
        "regression_head",
    }


def test_images_of_the_wrong_size_are_refused(tiny: SSD) -> None:
    with pytest.raises(ValueError, match=r"expected images of shape \[B, 3, 96, 96\], got \[1, 3, 96, 97\]"):
        tiny(torch.rand(1, 3, 96, 97))


def test_extras_go_on_where_the_backbone_ends(build: Build) -> None:
    with pytest.raises(InputError, match=r"extras.in_channels is 96, but the backbone ends with 48"):
        build("tiny_ssd", ["+backbone.width=0.5"])


@pytest.mark.parametrize(("scale", "shift", "text"), [(255.0, 0.0, r"\[0, 255\]"), (2.0, -1.0, r"\[-1, 1\]")])
def test_images_of_the_wrong_range_are_refused(tiny: SSD, scale: float, shift: float, text: str) -> None:
    images = torch.zeros(1, 3, 96, 96)
    images[..., 0] = 1
    with pytest.raises(ValueError, match=r"expected RGB images with values in \[0, 1\], got " + text):
        tiny(images * scale + shift)


def test_images_that_are_not_numbers_are_refused(tiny: SSD) -> None:
    with pytest.raises(ValueError, match=r"values in \[0, 1\], got \[nan, nan\]"):
        tiny(torch.full((1, 3, 96, 96), float("nan")))


def test_the_tiny_net_learns_to_find_a_square(build: Build) -> None:
    """Two dozen steps on four pictures: loss falls, and the best detection is the object."""
    torch.manual_seed(0)
    detector = build("tiny_ssd", num_classes=2).train()
    images, targets = torch.full((4, 3, 96, 96), 0.5), []
    for row, (left, top, size, label) in enumerate([(8, 12, 30, 1), (50, 40, 34, 2), (20, 55, 26, 2), (44, 6, 40, 1)]):
        images[row, 0 if label == 1 else 2, top : top + size, left : left + size] = 1
        targets.append(make_target([(left, top, left + size, top + size)], labels=[label]))
    assignment = detector.assign(targets)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    history = []
    for _ in range(60):
        losses = detector.losses(detector(images), assignment)
        loss = losses.per_positive(losses.total)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5)
        optimiser.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.2 * history[0]
    for found, target in zip(detector.detect(detector(images)), targets, strict=True):
        assert found.labels[0] == target.labels[0]
        assert (found.boxes[0] - target.boxes[0]).abs().max() < 5


def test_a_random_batch_has_finite_losses(tiny: SSD, images: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(2)
    targets = [random_target(count, 94.0, generator) for count in (6, 4)]
    losses = tiny.losses(tiny(images), tiny.assign(targets))
    assert losses.total.isfinite().all()
    assert (losses.num_positives >= torch.tensor([1, 1])).all()


def test_a_protocol_settles_means_and_post_processing() -> None:
    protocol = {"channel_means": [104, 117, 123], "candidates_per_class": 200, "max_detections": None}
    model = OmegaConf.load(CONF / "ssd300.yaml")
    model.merge_with({"weights": None, "backbone": {"width": 0.02}, "extras": {"in_channels": 20}})
    ssd = instantiate(OmegaConf.create({"protocol": protocol, "model": model}).model, num_classes=20)
    assert ssd.normalisation.mean.flatten().tolist() == [104, 117, 123]
    assert ssd.post_processing.candidates_per_class == 200
    assert ssd.post_processing.max_detections is None


def test_classes_that_no_object_has_share_the_softmax_and_are_never_detected(build: Build) -> None:
    ssd = build("tiny_ssd", ["+unused_classes=7"], num_classes=3)
    with torch.no_grad():
        raw = ssd(torch.rand(1, 3, 96, 96))
        assert raw.cls_logits.shape[-1] == 1 + 3 + 7
        raw.cls_logits.zero_()
        raw.cls_logits[:, :5, 9] = 9.0  # unused
        raw.cls_logits[:, 5, 2] = 9.0
    (found,) = ssd.detect(raw)
    assert set(found.labels.tolist()) <= {1, 2, 3}
    assert int(found.labels[0]) == 2
    assert float(found.scores[0]) == pytest.approx(1 / (1 + 10 * 2.718281828**-9), rel=1e-4)
