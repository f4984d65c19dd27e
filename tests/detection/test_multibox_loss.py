from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustdet.detection import multibox_loss
from robustdet.detection.multibox_loss import MultiBoxLoss
from robustdet.types import Assignment, RawPredictions

P, C = 60, 4
POSITIVES = [0, 1, 5, 20, 60]


def drawn(dtype: torch.dtype = torch.float64) -> tuple[RawPredictions, Assignment]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.zeros(len(POSITIVES), P, dtype=torch.int64)
    for row, count in enumerate(POSITIVES):
        chosen = torch.randperm(P, generator=generator)[:count]
        labels[row, chosen] = torch.randint(1, C + 1, (count,), generator=generator)
    offsets = torch.randn(len(POSITIVES), P, 4, generator=generator, dtype=torch.float64).to(dtype)
    raw = RawPredictions(
        cls_logits=(3 * torch.randn(len(POSITIVES), P, C + 1, generator=generator)).to(dtype).requires_grad_(),
        bbox_regression=(2 * torch.randn(len(POSITIVES), P, 4, generator=generator)).to(dtype).requires_grad_(),
        default_boxes=torch.rand(P, 4, generator=generator),
    )
    return raw, Assignment(labels, labels - 1, torch.where(labels[..., None] > 0, offsets, 0))


def losses_slowly(raw: RawPredictions, assignment: Assignment, row: int) -> tuple[float, float]:
    """Classification and localisation of one image, box by box."""
    logits, labels = raw.cls_logits[row].tolist(), assignment.labels[row].tolist()
    cross_entropy = [math.log(sum(map(math.exp, logits[p]))) - logits[p][labels[p]] for p in range(P)]
    positives = [p for p in range(P) if labels[p] > 0]
    background = sorted((cross_entropy[p] for p in range(P) if labels[p] == 0), reverse=True)
    classification = sum(cross_entropy[p] for p in positives) + sum(background[: 3 * len(positives)])
    localisation = 0.0
    for p in positives:
        for error in (raw.bbox_regression[row, p] - assignment.regression_targets[row, p]).abs().tolist():
            localisation += 0.5 * error**2 if error < 1 else error - 0.5
    return classification, localisation


def test_losses_are_those_of_a_slow_loop() -> None:
    raw, assignment = drawn()
    losses = MultiBoxLoss()(raw, assignment)
    expected = torch.tensor([losses_slowly(raw, assignment, row) for row in range(len(POSITIVES))])
    torch.testing.assert_close(losses.classification.detach(), expected[:, 0].double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.localization.detach(), expected[:, 1].double(), rtol=1e-5, atol=1e-5)
    assert losses.num_positives.tolist() == POSITIVES


def test_localisation_alone_is_that_of_the_losses_and_costs_no_mining(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, assignment = drawn()
    whole = MultiBoxLoss()(raw, assignment).localization
    called: list[str] = []
    monkeypatch.setattr(multibox_loss.F, "cross_entropy", lambda *_, **__: called.append("cross-entropy"))
    monkeypatch.setattr(MultiBoxLoss, "hard_negatives", lambda *_: called.append("mining"))
    torch.testing.assert_close(MultiBoxLoss().localization(raw, assignment), whole, rtol=0, atol=0)
    assert called == []


def test_an_image_without_positives_has_no_loss_and_no_gradient() -> None:
    raw, assignment = drawn()
    losses = MultiBoxLoss()(raw, assignment)
    assert losses.total[0] == 0
    losses.per_positive(losses.total).backward()
    assert not raw.cls_logits.grad[0].any()
    assert raw.cls_logits.grad[1].any()
    assert raw.cls_logits.grad.isfinite().all()


def test_negatives_are_three_for_each_positive_as_far_as_there_is_background() -> None:
    raw, assignment = drawn()
    criterion, positive = MultiBoxLoss(), assignment.labels > 0
    cross_entropy = criterion.box_losses(raw, assignment).cross_entropy
    negatives = criterion.hard_negatives(cross_entropy, positive)
    assert negatives.sum(dim=1).tolist() == [0, 3, 15, 40, 0]
    assert not (negatives & positive).any()
    for row in range(len(POSITIVES)):
        left = cross_entropy[row][~negatives[row] & ~positive[row]]
        taken = cross_entropy[row][negatives[row]]
        assert not len(left) or not len(taken) or taken.min() >= left.max()


def test_of_equally_hard_boxes_exactly_the_first_are_negatives() -> None:
    positive = torch.zeros(1, P, dtype=torch.bool)
    positive[0, 1] = True
    negatives = MultiBoxLoss().hard_negatives(torch.ones(1, P), positive)
    assert negatives[0].nonzero().flatten().tolist() == [0, 2, 3]


def test_the_loss_of_a_batch_is_that_of_its_images_one_by_one() -> None:
    raw, assignment = drawn()
    together = MultiBoxLoss()(raw, assignment)
    for row in range(len(POSITIVES)):
        one = slice(row, row + 1)
        alone = MultiBoxLoss()(
            RawPredictions(raw.cls_logits[one], raw.bbox_regression[one], raw.default_boxes),
            Assignment(assignment.labels[one], assignment.objects[one], assignment.regression_targets[one]),
        )
        torch.testing.assert_close(alone.total[0], together.total[row])


def test_box_losses_reduce_to_the_losses() -> None:
    raw, assignment = drawn()
    each, losses = MultiBoxLoss().box_losses(raw, assignment), MultiBoxLoss()(raw, assignment)
    torch.testing.assert_close(each.localization.sum(1), losses.localization)
    assert not each.localization[assignment.labels == 0].any()
    positives_only = torch.where(assignment.labels > 0, each.cross_entropy, 0).sum(1)
    assert (positives_only <= losses.classification).all()


def test_gradients_are_those_of_finite_differences() -> None:
    raw, assignment = drawn()

    def total(logits: Tensor, offsets: Tensor) -> Tensor:
        return MultiBoxLoss()(RawPredictions(logits, offsets, raw.default_boxes), assignment).total

    assert torch.autograd.gradcheck(total, (raw.cls_logits, raw.bbox_regression))


def test_half_precision_is_summed_in_single() -> None:
    losses = MultiBoxLoss()(*drawn(torch.bfloat16))
    assert losses.total.dtype == torch.float32
    exact = MultiBoxLoss()(*drawn())
    torch.testing.assert_close(losses.total.double(), exact.total, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("ratio", [1, 2])
def test_the_ratio_is_a_parameter(ratio: int) -> None:
    raw, assignment = drawn()
    negatives = MultiBoxLoss(ratio).hard_negatives(raw.cls_logits[..., 0].exp(), assignment.labels > 0)
    assert negatives.sum(dim=1).tolist() == [0, ratio, 5 * ratio, 20 * ratio, 0]
