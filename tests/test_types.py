import io
from typing import Any, ClassVar

import torch

from robustdet.types import Batch, DetectionLosses, Target, moved


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


def test_a_batch_comes_back_from_a_checkpoint_as_it_was():
    target = Target(
        boxes=torch.rand(2, 4),
        labels=torch.tensor([1, 2]),
        difficult=torch.tensor([False, True]),
        crowd=torch.tensor([True, False]),
        image_id="a",
        original_size=(10, 20),
    )
    batch = Batch(torch.rand(1, 3, 8, 8), [target])
    file = io.BytesIO()
    torch.save(batch.state_dict(), file)
    file.seek(0)
    again = Batch.from_state(torch.load(file, weights_only=True))
    assert torch.equal(again.images, batch.images)
    (found,) = again.targets
    assert (found.image_id, found.original_size) == ("a", (10, 20))
    for name in ("boxes", "labels", "difficult", "crowd"):
        assert torch.equal(getattr(found, name), getattr(target, name)), name


class Spy(torch.Tensor):
    """Says how it was asked to move, and stays where it is."""

    asked: ClassVar[list[Any]] = []

    def pin_memory(self):
        self.asked.append("pinned")
        return self

    def to(self, device, non_blocking=False):
        self.asked.append((device, non_blocking))
        return self


def test_nothing_is_read_on_the_host_before_it_has_arrived():
    """A GPU's kernels wait for a copy to it; nothing waits for one to the host."""
    moved(Spy(), "cpu")
    moved(Spy(), "cuda:1")
    assert Spy.asked == [("cpu", False), "pinned", ("cuda:1", True)]
