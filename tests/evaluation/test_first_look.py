"""What somebody else's detector may get wrong is named on the first batch, with what it looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustdet.evaluation.first_look import require_promises
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.types import Batch, DetectionLosses
from tests.attacks import fakes
from tests.detection.conftest import make_target

SIZE = 64
TRUE = [[20.0, 10.0, 50.0, 30.0], [5.0, 30.0, 25.0, 60.0]]  # one object an image


@dataclass
class Found:
    """As `Detections`, but nobody checks it."""

    boxes: Any
    scores: Any
    labels: Any


class Told(nn.Module):
    """Finds what it is told to, in the first and in the second image."""

    num_classes, input_size = 3, SIZE

    def __init__(self, boxes: Any = TRUE, score: float = 0.9, label: float = 1) -> None:
        super().__init__()
        self.boxes, self.score, self.label = torch.tensor(boxes), score, torch.tensor([label])

    def forward(self, images: Tensor, generator: Any = None) -> Tensor:
        return images

    def detect(self, raw: Tensor) -> list[Any]:
        return [Found(box[None], torch.tensor([self.score]), self.label) for box in self.boxes]


def batch() -> Batch:
    targets = [make_target([box], [1], image_id=name) for box, name in zip(TRUE, "ab", strict=True)]
    return Batch(torch.rand(2, 3, SIZE, SIZE), targets)


def test_what_is_right_passes(caplog: pytest.LogCaptureFixture):
    require_promises(Told().eval(), batch())
    model = fakes.detector().eval()
    require_promises(model, Batch(*fakes.batch()))
    assert not caplog.text


def xywh(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right - left, bottom - top]


@pytest.mark.parametrize(
    ("detector", "text"),
    [
        (Told(score=float("nan")), "Told, image 'a': scores have NaN or infinity, expected finite values"),
        (Told([[float("inf")] * 4, TRUE[1]]), "Told, image 'a': boxes have NaN or infinity"),
        (Told([[0.0, 1.0, 2.0]] * 2), r"Told, image 'a': boxes have shape \[1, 3\], expected \[1, 4\]"),
        (
            Told(label=0),
            r"image 'a': labels from 0 to 0, expected whole numbers from 1 to 3 \(looks like it counts from 0",
        ),
        (Told(label=17), r"labels from 17 to 17, expected .* 1 to 3 \(COCO's ids have gaps: number the names 1 to C\)"),
        (Told(label=1.0), r"labels from 1 to 1, expected whole numbers"),
        (Told(score=4.2), r"scores from 4\.2 to 4\.2, expected \[0, 1\] \(looks like percent\)"),
        (Told(score=-4.2), r"expected \[0, 1\] \(looks like logits: take their sigmoid or softmax\)"),
        (
            Told([[edge / SIZE for edge in box] for box in TRUE]),
            r"Told: boxes go up to 0\.938 in images of 64 pixels, expected xyxy .* fractions of the image: times 64",
        ),
    ],
)
def test_what_is_wrong_is_named_with_a_hint(detector: Told, text: str):
    with pytest.raises(ValueError, match=text):
        require_promises(detector.eval(), batch())


def test_a_detector_that_writes_into_its_images_is_refused():
    class Normalising(Told):
        def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Any:
            images.mul_(255)
            return super().__call__(images, generator)

    given = batch()
    before = given.images.clone()
    with pytest.raises(ValueError, match="Normalising: it writes into the images that it is given"):
        require_promises(Normalising(), given)
    assert torch.equal(given.images, before)


def test_xywh_is_told_from_other_orders():
    wide = Told([[40.0, 10.0, 20.0, 30.0], TRUE[1]])  # xywh of the first object
    images = batch()
    images.targets[0] = make_target([[40, 10, 60, 40]], [1], image_id="a")
    images.targets[1] = make_target([[1, 1, 2, 2]], [1], image_id="b")
    with pytest.raises(ValueError, match=r"box \[40\.0, 10\.0, 20\.0, 30\.0\] .* as 1 of 2 do, .* \(looks like xywh\)"):
        require_promises(wide.eval(), images)


@pytest.mark.parametrize(
    ("boxes", "text"),
    [
        ([xywh(*box) for box in TRUE], "Told: its boxes fit the objects better when read as xywh, expected xyxy"),
        ([[200.0, 100.0, 300.0, 200.0]] * 2, "100 % of its boxes have their middle outside the image of 64 pixels"),
    ],
)
def test_what_is_likely_wrong_is_warned_of(boxes: list[list[float]], text: str, caplog: pytest.LogCaptureFixture):
    require_promises(Told(boxes).eval(), batch())
    assert [text in record.getMessage() for record in caplog.records] == [True]


class WithLosses(Told):
    """``loss`` is what it makes of the images."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    def assign(self, targets: Any) -> Any:
        return len(targets)

    def losses(self, raw: Tensor, assignment: Any) -> DetectionLosses:
        value = self.loss(raw)
        return DetectionLosses(value, value, torch.ones(assignment, dtype=torch.long))


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda images: images.detach().sum(dim=(1, 2, 3)), "its losses have no gradient to the pixels, expected diff"),
        (lambda images: images.sum(dim=(1, 2, 3)) * float("nan"), "its losses on the first images are not finite"),
    ],
)
def test_losses_that_lead_nowhere_are_warned_of(loss: Any, text: str, caplog: pytest.LogCaptureFixture):
    require_promises(WithLosses(loss).eval(), batch())
    assert text in caplog.text


def test_an_evaluation_looks_once(tmp_path, monkeypatch: pytest.MonkeyPatch):
    suite = SuiteEvaluator({"clean": None}, {}, tmp_path, {})
    with pytest.raises(ValueError, match="looks like it counts from 0"):
        suite.evaluate_batch(Told(label=0).eval(), batch())
    looked: list[Any] = []
    monkeypatch.setattr("robustdet.evaluation.pipeline.require_promises", lambda *given: looked.append(given))
    suite = SuiteEvaluator({"clean": None}, {}, tmp_path, {})
    images, targets = fakes.batch()
    for place in range(3):
        suite.evaluate_batch(fakes.detector().eval(), Batch(images[place : place + 1], targets[place : place + 1]))
    assert len(looked) == 1
