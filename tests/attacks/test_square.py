from itertools import pairwise

import pytest
import torch

from robustdet.attacks.objectives import total
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.square import Square, draws, squares
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim
from tests.attacks import fakes

THREAT = LInf("8/255")


def generators(seed: int = 0) -> list[torch.Generator]:
    return image_generators(seed, ["two", "one", "none"])


def values(victim, images, targets) -> torch.Tensor:
    with victim.borrow(targets) as model, torch.no_grad():
        return total(model, images)


class Masked(fakes.FakeDetector):
    """Hides its gradients."""

    def forward(self, images, generator=None):
        return super().forward(images.detach().clone())


def test_more_queries_are_never_weaker_and_at_last_help():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    # the schedule depends on the number of queries: watch one run instead of comparing several
    seen = []

    def watched(model, x):
        seen.append(total(model, x))
        return seen[-1]

    attacked = Square(watched, THREAT, queries=150)(victim, images, targets, generators())
    best = torch.stack(seen).cummax(dim=0).values
    assert len(seen) == 151  # and the clean images
    assert torch.equal(values(victim, attacked, targets), best[-1])
    assert all((later >= earlier).all() for earlier, later in pairwise(best))
    assert (best[-1] > best[0])[:2].all()


def test_no_gradient_is_ever_asked_for():
    detector, (images, targets) = fakes.detector(), fakes.batch()
    modes = []
    detector.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    Square(total, THREAT, queries=5)(DetectorVictim(detector), images, targets, generators())
    assert modes == [False] * 6


def test_hidden_gradients_change_nothing():
    images, targets = fakes.batch()
    attack = Square(total, THREAT, queries=40)
    plain, masked = (
        attack(DetectorVictim(fakes.detector(kind)), images, targets, generators())
        for kind in (fakes.FakeDetector, Masked)
    )
    assert torch.equal(plain, masked)


def test_every_image_decides_for_itself():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    attack = Square(total, THREAT, queries=60)
    together = attack(victim, images, targets, generators())
    for i in range(3):
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], generators()[i : i + 1])
        assert ((alone - together[i : i + 1]).abs() < 1e-5).float().mean() > 0.99


def test_squares_are_squares_of_one_colour_inside_the_image():
    images = torch.zeros(3, 3, 16, 12)
    places = set()
    for seed in range(60):
        for drawn in squares(images, draws(images, generators(seed), 1)[1][:, 0], side=5):
            rows, columns = (drawn[0] != 0).nonzero(as_tuple=True)
            assert (int(rows.max() - rows.min()), int(columns.max() - columns.min()), len(rows)) == (4, 4, 25)
            assert all(channel[rows, columns].unique().numel() == 1 for channel in drawn)
            assert set(drawn.unique().tolist()) <= {-1.0, 0.0, 1.0}
            places.add((int(rows.min()), int(columns.min())))
    assert {row for row, _ in places} == set(range(12))
    assert {column for _, column in places} == set(range(8))


def test_stripes_are_vertical_and_at_the_balls_corners():
    drawn, _ = draws(torch.zeros(3, 3, 16, 200), generators(), 0)
    assert drawn.shape == (3, 3, 1, 200)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean().abs() < 0.1


def test_sides_shrink_on_the_papers_schedule():
    images, attack = torch.zeros(1, 3, 100, 100), Square(total, THREAT, queries=10_000)
    at = {1: 0.8, 10: 0.8, 11: 0.4, 50: 0.4, 51: 0.2, 201: 0.1, 501: 0.05, 1001: 0.025, 8001: 0.8 / 512}
    assert [attack.side(query, images) for query in at] == [round(100 * share**0.5) for share in at.values()]
    short = Square(total, THREAT, queries=1000)
    assert [short.side(query, images) for query in (1, 2, 999)] == [round(100 * s**0.5) for s in (0.8, 0.4, 0.8 / 512)]


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"expected a share of the image in \(0, 1\], got p_init=0"):
        Square(total, THREAT, p_init=0.0)


def test_a_clean_image_of_no_number_is_left_for_the_first_that_has_one():
    images, targets = fakes.batch()
    victim, calls = DetectorVictim(fakes.detector()), []

    def objective(model, x):
        calls.append(x)
        return total(model, x) * (float("nan") if len(calls) == 1 else 1.0)

    made = Square(objective, THREAT, 20)(victim, images, targets, generators())
    assert (made != images).flatten(1).any(dim=1).all()
