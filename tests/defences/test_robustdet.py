"""One step of RobustDet against Eqs. 2 to 5 written out as loops over images, triplets, features, pixels and boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robustdet.defences.robustdet import LossWeights, RobustDet
from robustdet.defences.schedules import Full, Replay
from robustdet.defences.triplet_loss import AllTriplets
from robustdet.types import Batch
from tests.defences import slowly
from tests.defences.test_adversarial import agree
from tests.defences.test_schedules import ATTACKS
from tests.slowness import quick

PAPER = LossWeights(gamma=0.6, beta=0.75, a=3, b=0.16, c=5)
OTHERS = LossWeights(gamma=0.01, beta=0.3, a=0.7, b=2.0, c=11.0)  # with this margin some triplets cost nothing
SEED = 4

pytestmark = pytest.mark.usefixtures("double")


def triplets(routing: Tensor, attacked: list[bool], gamma: float) -> tuple[Tensor, float]:
    """Eq. 2 as a mean over triplets, and how many of them violate the margin."""
    hinges = []
    for anchor, a in enumerate(attacked):
        for positive, p in enumerate(attacked):
            for negative, n in enumerate(attacked):
                if anchor != positive and a == p and a != n:
                    near = slowly.jensen_shannon(routing[anchor], routing[positive])
                    far = slowly.jensen_shannon(routing[anchor], routing[negative])
                    hinges.append(near - far + gamma)
    violated = [hinge for hinge in hinges if hinge > 0]
    return sum(violated, torch.zeros(())) / len(hinges), len(violated) / len(hinges)


def consistency(passes: list[tuple[Any, Tensor]]) -> tuple[Tensor, Tensor]:
    """Eqs. 3 and 4 of (predictions of one image, its clean image): means over pixels and features, on 0..255, / 255."""
    squares, pixels = torch.zeros(()), 0
    divergence, features = torch.zeros(()), 0
    for raw, clean in passes:
        for colour, wanted in zip(raw.reconstruction[0], clean, strict=True):
            squares = squares + ((255 * colour - 255 * wanted) ** 2).sum()
            pixels += colour.numel()
        for mu, log_variance in zip(raw.mean[0], raw.log_variance[0], strict=True):
            divergence = divergence + (-log_variance + mu**2 + log_variance.exp() - 1).sum() / 2
            features += mu.numel()
    return squares / pixels / 255, divergence / features / 255


def step_slowly(
    model: Any, batch: Batch, attacked: Tensor, source: Batch, w: LossWeights, generator: Any, crossed: str
) -> dict[str, Tensor]:
    """Every image passes alone; their features' noise comes from one generator, so each gets what a batch gives it."""
    images = [*batch.images, *attacked]
    clean = [*batch.images, *source.images]
    targets = [*batch.targets, *source.targets]
    raws = [model(image[None], generator) for image in images]
    kinds = [place >= len(batch) for place in range(len(images))]
    aid, violated = triplets(torch.cat([raw.routing for raw in raws]), kinds, w.gamma)
    crossing = {"none": [], "clean": [*range(len(batch))], "both": [*range(len(images))]}[crossed]
    for place in crossing:
        of_its_twin = raws[(place + len(batch)) % len(images)].routing.detach()
        raws.append(model(images[place][None], generator, of_its_twin))
    clean, targets = ([*all_of, *(all_of[place] for place in crossing)] for all_of in (clean, targets))

    sums = [slowly.det_sums(model, raw, target) for raw, target in zip(raws, targets, strict=True)]
    positives = sum(count for _, _, count in sums)
    cls, loc = (sum(image[task] for image in sums) / positives for task in (0, 1))
    each = [(image[0] + image[1]).detach() / max(image[2], 1) for image in sums]
    parts = {"L_cls": cls, "L_loc": loc, "L_det": cls + loc, "L_aid": aid}
    loss = w.beta * (cls + loc + w.a * aid)
    if raws[0].mean is not None:
        parts["L_re"], parts["L_kld"] = consistency(list(zip(raws, clean, strict=True)))
        loss = loss + w.b * parts["L_re"] + w.c * parts["L_kld"]
    return parts | {
        "loss": loss,
        "L_det_clean": sum(each[: len(batch)]) / len(batch),
        "L_det_adv": sum(each[len(batch) : len(images)]) / len(attacked),
        "perturbation": 255 * (attacked - source.images).abs().sum() / attacked.numel(),
        "violated_triplets": torch.tensor(violated),
    }


def model_with_opinions(name: str, aware: str = "all") -> Any:
    """Kernels that differ and a discriminator that does not answer the same to all, so that routing matters."""
    model = slowly.build(name, [f"adversarially_aware={aware}"])
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
        list(model.aid.parameters())[-2].mul_(20)
    return model


@pytest.mark.parametrize("crossed", quick(["none", "clean", "both"], lambda crossed: crossed != "none"))
@pytest.mark.parametrize(
    ("name", "weights", "aware"),
    [
        ("tiny_robust_ssd", PAPER, "all"),
        pytest.param("tiny_robust_ssd_cfr", PAPER, "all", marks=pytest.mark.slow),
        ("tiny_robust_ssd_cfr", OTHERS, "late"),
    ],
)
def test_a_step_is_eq_5_image_by_image(name: str, weights: LossWeights, aware: str, crossed: Any):
    """Two updates on a replayed source: in the second the attacked images are not those of the clean half."""
    model = model_with_opinions(name, aware)
    replay = Replay(ATTACKS["a_cls"](20), updates_per_source=2, step_sizes=["4/255"])
    method = RobustDet(replay, weights, AllTriplets, crossed)
    source = slowly.batch(1)
    attacked = source.images
    for batch in (source, slowly.batch(2)):
        ours, theirs = (torch.Generator().manual_seed(SEED) for _ in range(2))
        if batch is source:  # its step size is drawn first
            torch.randint(1, (), generator=theirs)
        attacked = slowly.moved("a_cls", model, attacked, source, 4 / 255)
        output = method.step(model, batch, ours)
        expected = step_slowly(model, batch, attacked, source, weights, theirs, crossed)
        of_routing = {"routing_entropy", "kernels_used", "aid_separation"}
        assert (output.parts | output.diagnostics()).keys() - of_routing == expected.keys() - {"loss"}
        agree(output, expected, model)


def test_the_other_margin_has_violated_triplets_and_satisfied_ones():
    model, batch = model_with_opinions("tiny_robust_ssd"), slowly.batch(1)
    method = RobustDet(Full(ATTACKS["a_cls"](1)), OTHERS, AllTriplets)
    violated = method.step(model, batch, torch.Generator().manual_seed(0)).diagnostics()["violated_triplets"]
    assert 0.1 < violated < 0.9


def test_the_crossed_branch_teaches_the_discriminator_nothing():
    """Its π is detached: of L_det alone, the discriminator learns from more branches what it learns from two."""
    model, gradients = model_with_opinions("tiny_robust_ssd"), []
    for crossed, branches in (("none", 2), ("clean", 3), ("both", 4)):
        method = RobustDet(Full(ATTACKS["a_cls"](1)), LossWeights(0.6, 1, 0, 0, 0), AllTriplets, crossed)
        output = method.step(model, slowly.batch(1), torch.Generator().manual_seed(0))
        last = list(model.aid.parameters())[-1]
        gradients.append(torch.autograd.grad(output.loss, last)[0] * branches)  # of as many positives each
    assert gradients[0].any()
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])


def test_its_state_is_that_of_its_schedule():
    model = model_with_opinions("tiny_robust_ssd")
    one, other = (RobustDet(Replay(ATTACKS["a_cls"](20), 3, ["1/255", "4/255"]), PAPER, AllTriplets) for _ in range(2))
    one.step(model, slowly.batch(1), torch.Generator().manual_seed(0))
    other.load_state_dict(one.state_dict())
    losses = [m.step(model, slowly.batch(2), torch.Generator().manual_seed(1)).loss for m in (one, other)]
    assert losses[0] == losses[1]
