from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch.nn.functional import kl_div

from robustdet.defences.triplet_loss import AllTriplets, RandomNegativeTriplets, jensen_shannon, squared_l2

KINDS = torch.tensor([False, True, False, True, True, False, False])


@pytest.fixture
def routing() -> torch.Tensor:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (2 * logits).softmax(dim=1)


def slow_js(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Eq. 2's divergence, by torch's KL."""
    m = ((p + q) / 2).log()
    return 0.5 * kl_div(m, p, reduction="sum") + 0.5 * kl_div(m, q, reduction="sum")


def slow_l2(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return ((p - q) ** 2).sum()


SLOW = {jensen_shannon: slow_js, squared_l2: slow_l2}


@pytest.mark.parametrize("distance", SLOW)
def test_distances_of_all_pairs(distance, routing: torch.Tensor) -> None:
    expected = torch.stack([torch.stack([SLOW[distance](p, q) for q in routing]) for p in routing])
    torch.testing.assert_close(distance(routing), expected)


@pytest.mark.parametrize("margin", [0.1, 0.6])
@pytest.mark.parametrize("distance", SLOW)
def test_all_triplets_equal_a_triple_loop(distance, margin: float, routing: torch.Tensor) -> None:
    d = SLOW[distance]
    hinges = [
        (d(routing[a], routing[p]) - d(routing[a], routing[n]) + margin).clamp(min=0)
        for a in range(7)
        for p in range(7)
        for n in range(7)
        if a != p and KINDS[a] == KINDS[p] and KINDS[a] != KINDS[n]
    ]
    terms = AllTriplets(margin, distance)(routing, KINDS)
    assert terms.triplets == len(hinges) == 4 * 3 * 3 + 3 * 2 * 4
    torch.testing.assert_close(terms.loss, torch.stack(hinges).mean())
    torch.testing.assert_close(terms.violated.item(), sum(h.item() > 0 for h in hinges) / len(hinges))


@pytest.mark.parametrize("distance", SLOW)
def test_gradients_inside_the_simplex(distance, routing: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(lambda r: AllTriplets(0.6, distance)(r, KINDS).loss, routing.requires_grad_())


@pytest.mark.parametrize("distance", SLOW)
@pytest.mark.parametrize("loss", [AllTriplets, RandomNegativeTriplets])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_exactly_zero_and_one_make_no_nan(loss, distance, dtype: torch.dtype) -> None:
    logits = torch.tensor([[0, -1e4], [0, -1e4], [-1e4, 0], [0, 0], [-1e4, 0]], dtype=dtype, requires_grad=True)
    routing = logits.softmax(dim=1)
    assert routing[0].tolist() == [1, 0]
    kinds = torch.tensor([False, False, True, True, True])
    terms = loss(0.6, distance)(routing, kinds, torch.Generator().manual_seed(0))
    (at_routing,) = torch.autograd.grad(terms.loss, routing, retain_graph=True)
    (at_logits,) = torch.autograd.grad(terms.loss, logits)
    assert terms.loss.isfinite()
    assert at_routing.isfinite().all()
    assert at_logits.isfinite().all()


def test_one_hot_kinds_that_agree_and_differ() -> None:
    apart = torch.eye(4)[[0, 0, 1, 1]]
    kinds = torch.tensor([False, False, True, True])
    distances = jensen_shannon(apart)
    torch.testing.assert_close(distances[0], torch.tensor([0, 0, math.log(2), math.log(2)]))
    assert AllTriplets(0.6)(apart, kinds).loss == 0
    assert AllTriplets(0.6)(apart, kinds).violated == 0
    # together again, every triplet costs the margin
    terms = AllTriplets(0.6)(torch.eye(4)[[2, 2, 2, 2]], kinds)
    torch.testing.assert_close(terms.loss, torch.tensor(0.6))
    assert terms.violated == 1


@pytest.mark.parametrize("loss", [AllTriplets(), RandomNegativeTriplets()])
@pytest.mark.parametrize("kinds", [[True], [False, True], [True, True, True]])
def test_without_a_triplet_loss_and_gradient_are_zero(loss, kinds: list[bool]) -> None:
    routing = torch.full((len(kinds), 4), 0.25, requires_grad=True)
    terms = loss(routing, torch.tensor(kinds), torch.Generator())
    (gradient,) = torch.autograd.grad(terms.loss, routing)
    assert terms.loss == 0
    assert terms.triplets == 0
    assert not gradient.any()


@pytest.mark.parametrize("distance", SLOW)
def test_random_negatives_equal_a_loop_over_unordered_pairs(distance, routing: torch.Tensor) -> None:
    d = SLOW[distance]
    terms = RandomNegativeTriplets(0.6, distance)(routing, KINDS, torch.Generator().manual_seed(5))
    lottery = torch.rand(7, 7, 7, generator=torch.Generator().manual_seed(5))
    hinges = []
    for a, p in combinations(range(7), 2):
        if KINDS[a] == KINDS[p]:
            n = max((i for i in range(7) if KINDS[i] != KINDS[a]), key=lambda i: lottery[a, p, i])
            hinges.append((d(routing[a], routing[p]) - d(routing[a], routing[n]) + 0.6).clamp(min=0))
    assert terms.triplets == len(hinges) == 6 + 3
    torch.testing.assert_close(terms.loss, torch.stack(hinges).mean())


def test_every_negative_is_drawn_evenly() -> None:
    """Two alike clean images, negatives at three distances: many draws average to the mean of the three hinges."""
    routing = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0.8, 0.2, 0], [0.9, 0.1, 0]])
    kinds = torch.tensor([False, False, True, True, True])
    generator = torch.Generator().manual_seed(0)
    loss = RandomNegativeTriplets(0.6)
    pair = loss(routing[:3], kinds[:3], generator).loss
    torch.testing.assert_close(pair, torch.tensor(0.6))
    draws = torch.stack([loss(routing, kinds, generator).loss for _ in range(3000)])
    # one clean pair with a random negative, three adversarial pairs whose negatives are all alike
    clean = (0.6 + (0.6 - 0.08) + (0.6 - 0.02)) / 3
    d01, d02, d12 = 0.08, 0.02, 0.02
    adversarial = (d01 + 0.6) + (d02 + 0.6) + (d12 - 0.08 + 0.6)
    torch.testing.assert_close(draws.mean().item(), (clean + adversarial) / 4, atol=1e-3, rtol=0)


def test_random_negatives_need_a_generator(routing: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="RandomNegativeTriplets draws its negatives: hand in a torch"):
        RandomNegativeTriplets()(routing, KINDS)
