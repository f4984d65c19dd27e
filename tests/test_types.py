import torch

from robustdet.types import DetectionLosses, Target


def test_learnable_drops_difficult_and_crowd_objects():
    target = Target(
        boxes=torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]),
        labels=torch.tensor([1, 2, 3]),
        difficult=torch.tensor([False, True, False]),
        crowd=torch.tensor([False, False, True]),
        image_id="a",
        original_size=(10, 10),
    )
    assert target.learnable.labels.tolist() == [1]
    assert target.learnable.boxes.tolist() == [[0, 0, 1, 1]]


def test_losses_of_a_batch_without_positives_are_finite():
    losses = DetectionLosses(torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.long))
    assert losses.per_positive(losses.total).item() == 0.0
    assert losses.each_per_positive(losses.total).tolist() == [0.0, 0.0]
