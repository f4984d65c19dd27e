"""Our detectors as torchvision's: sizes, modes, losses, gradients, state dicts."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import robustdet
from robustdet.errors import KindError
from robustdet.interop.as_torchvision import TorchvisionInterface
from robustdet.interop.black_box import BlackBox
from robustdet.types import Target
from tests.detection.conftest import build_detector, make_target

SIZE = 96
OTHER_SIZES = [torch.rand(3, 48, 192), torch.rand(3, SIZE, SIZE), torch.rand(3, 120, 60)]
GIVEN = [
    {"boxes": torch.tensor([[10.0, 5.0, 120.0, 40.0]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
    {"boxes": torch.tensor([[0.0, 0.0, 30.0, 60.0], [5.0, 50.0, 60.0, 120.0]]), "labels": torch.tensor([1, 3])},
]


@pytest.fixture(scope="module", params=["tiny_ssd", "tiny_robust_ssd_cfr"])
def model(request: pytest.FixtureRequest) -> TorchvisionInterface:
    torch.manual_seed(0)
    return robustdet.as_torchvision(build_detector(request.param, ["head_std=0.1"], num_classes=3))


def test_detections_are_ours_in_each_images_own_pixels(model: TorchvisionInterface):
    images = [torch.rand(3, SIZE, SIZE), torch.rand(3, 2 * SIZE, SIZE)]
    with torch.no_grad():
        found = model.eval()(images)
        halves = torch.nn.functional.interpolate(images[1][None], (SIZE, SIZE), mode="bilinear")
        ours = model.detector.detect(model.detector(torch.cat([images[0][None], halves])))
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
    for one, mine, scale in zip(found, ours, ([1, 1, 1, 1], [1, 2, 1, 2]), strict=True):
        boxes = mine.boxes.clamp(0, SIZE)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        assert len(one["labels"]) > 3
        torch.testing.assert_close(one["boxes"], boxes[inside] * torch.tensor(scale))
        assert torch.equal(one["labels"], mine.labels[inside])
        assert torch.equal(one["scores"], mine.scores[inside])
        assert (one["scores"].diff() <= 0).all()


def test_losses_are_ours_of_the_batch_with_gradients_to_images_of_any_size(model: TorchvisionInterface):
    images = [image.clone().requires_grad_() for image in OTHER_SIZES]
    model.train()
    losses = model(images, GIVEN)
    assert list(losses) == ["classification", "bbox_regression"]
    gradients = torch.autograd.grad(sum(losses.values()), images)
    assert all(gradient.shape == image.shape for gradient, image in zip(gradients, images, strict=True))
    assert all(gradients[place].abs().sum() > 0 for place in (0, 2))  # SSD has no loss on an image without objects

    detector = model.detector
    batch = torch.cat(
        [torch.nn.functional.interpolate(one[None], (SIZE, SIZE), mode="bilinear") for one in OTHER_SIZES]
    )
    scales = [torch.tensor([SIZE / one.shape[2], SIZE / one.shape[1]] * 2) for one in OTHER_SIZES]
    targets: list[Target] = [
        make_target((one["boxes"] * scale).tolist(), one["labels"].tolist())
        for one, scale in zip(GIVEN, scales, strict=True)
    ]
    ours = detector.losses(detector(batch), detector.assign(targets))
    torch.testing.assert_close(losses["classification"], ours.per_positive(ours.classification))
    torch.testing.assert_close(losses["bbox_regression"], ours.per_positive(ours.localization))
    model.eval()
    torch.testing.assert_close(model(images)[0]["boxes"], model(images, GIVEN)[0]["boxes"])  # as torchvision's


def test_it_is_the_detector_under_its_own_names(model: TorchvisionInterface, tmp_path: Path):
    detector = model.detector
    assert list(model.state_dict()) == list(detector.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in detector.named_parameters()]
    for mode in (True, False):
        model.train(mode)
        assert {one.training for one in (*detector.modules(), *model.modules())} == {mode}
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert torch.equal(next(twin.parameters()), next(twin.detector.parameters()))
    assert not torch.equal(next(twin.parameters()), next(model.parameters()))
    twin.load_state_dict(detector.state_dict())
    assert torch.equal(next(twin.parameters()), next(model.parameters()))
    twin.double()
    assert {one.dtype for one in twin.detector.buffers() if one.is_floating_point()} == {torch.float64}


def test_what_cannot_be_is_named(model: TorchvisionInterface):
    model.eval()
    with pytest.raises(ValueError, match=r"image 1: expected floats \[3, H, W\], got torch.uint8 \[3, 9, 9\]"):
        model([torch.rand(3, 9, 9), torch.zeros(3, 9, 9, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="expected at least one image"):
        model([])
    model.train()
    with pytest.raises(ValueError, match="in training mode every image has its target: got 3 images, none targets"):
        model(OTHER_SIZES)
    wrong = [dict(one) for one in GIVEN]
    wrong[2]["labels"] = torch.tensor([1, 4])
    with pytest.raises(ValueError, match="target 2: label 4, expected 1 to 3"):
        model(OTHER_SIZES, wrong)
    wrong[2] = {"boxes": GIVEN[2]["boxes"].flip(1), "labels": GIVEN[2]["labels"]}
    with pytest.raises(ValueError, match="image '2': box 0 is degenerate"):
        model(OTHER_SIZES, wrong)
    wrong[2] = {"boxes": torch.zeros(4), "labels": torch.ones(1)}
    with pytest.raises(ValueError, match=r"target 2: expected boxes \[N, 4\] and labels \[N\], got \[4\] and \[1\]"):
        model(OTHER_SIZES, wrong)
    with pytest.raises(ValueError, match="target 2 has no labels; it has boxes"):
        model(OTHER_SIZES, [*GIVEN[:2], {"boxes": torch.zeros(0, 4)}])
    with pytest.raises(ValueError, match="seed=1: overrides are for a checkpoint that is yet to be read"):
        robustdet.as_torchvision(model.detector, "seed=1")


def test_detections_alone_are_no_losses():
    box = BlackBox(
        function=lambda images: [([[1, 1, 9, 9]], [0.5], [1])] * len(images), input_size=8, name="f", classes=["a"]
    )
    model = robustdet.as_torchvision(box.eval())
    (found,) = model(torch.rand(1, 3, 16, 16))
    assert found["boxes"].tolist() == [[2, 2, 16, 16]]
    with pytest.raises(KindError, match="BlackBox offers its detections alone and has no losses to train by"):
        model.train()(torch.rand(1, 3, 16, 16), GIVEN[:1])
