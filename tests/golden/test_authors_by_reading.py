"""What no output of the authors' code is at hand for, against slow loops written from a reading of that code.

Such a loop is a second opinion, not a measurement: where the reading is wrong, so are loop and implementation. Here are
the triplet loss, the crossed branch of a training step, DAG and the VOC evaluator as ``protocol=authors`` sets them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from robustdet.attacks import DetectorVictim, image_generators
from robustdet.defences.schedules import AdversarialBatch
from robustdet.evaluation.metric import AuthorsVocMetric
from robustdet.types import Batch, Detections, Target
from tests.attacks import fakes
from tests.detection.conftest import random_target
from tests.evaluation.scenes import detections, scene, target

Compose = Callable[..., DictConfig]


# --- the triplet loss: squared L2 on π, one random negative for each unordered pair of a kind, the mean of all


def mining_distance(p: list[float], q: list[float]) -> float:
    """KL(p || m) + KL(q || m), without Eq. 2's halves, and a mean over the K kernels where a sum is due."""
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    terms = [v * math.log(v / m) for side in (p, q) for v, m in zip(side, middle, strict=True)]
    return sum(terms) / len(p)


def squared_l2(p: list[float], q: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))


def hinges_of_pairs(routing: list[list[float]], clean: int, margin: float) -> list[list[float]]:
    """For every pair of a kind, the hinge with each negative that may be drawn."""
    found = []
    kinds = (range(clean), range(clean, len(routing)))
    for kind, others in (kinds, kinds[::-1]):
        for a, p in combinations(kind, 2):
            qualified = [
                n
                for n in others
                if mining_distance(routing[a], routing[p]) - mining_distance(routing[a], routing[n]) + margin > 0
            ]
            assert len(qualified) == len(others)  # as it is for K = 4: a mining distance is never above 0.35
            found.append(
                [
                    max(0.0, squared_l2(routing[a], routing[p]) - squared_l2(routing[a], routing[n]) + margin)
                    for n in qualified
                ]
            )
    return found


def test_triplets(compose: Compose) -> None:
    cfg = compose("train", "experiment=voc_robustdet", "protocol=authors")
    triplets = instantiate(cfg.method.triplets)(margin=cfg.loss.gamma)
    generator = torch.Generator().manual_seed(0)
    routing = (2 * torch.randn(32, 4, generator=generator, dtype=torch.float64)).softmax(dim=1)
    attacked = torch.arange(32) >= 16
    hinges = hinges_of_pairs(routing.tolist(), 16, 0.6)
    assert len(hinges) == 120 + 120
    draws = [triplets(routing, attacked, generator) for _ in range(400)]
    assert {int(draw.triplets) for draw in draws} == {240}
    least, most = (sum(choose(pair) for pair in hinges) / 240 for choose in (min, max))
    assert all(least <= float(draw.loss) <= most for draw in draws)
    means = [sum(pair) / len(pair) for pair in hinges]
    variances = [sum((h - m) ** 2 for h in pair) / len(pair) for pair, m in zip(hinges, means, strict=True)]
    error = math.sqrt(sum(variances)) / 240 / math.sqrt(len(draws))
    average = sum(float(draw.loss) for draw in draws) / len(draws)
    assert average == pytest.approx(sum(means) / 240, abs=4 * error)
    assert error < 0.01 * sum(means) / 240


def test_triplets_without_a_choice_are_exact(compose: Compose) -> None:
    """One clean image, which makes no pair, is the negative of every attacked pair."""
    cfg = compose("train", "experiment=voc_robustdet", "protocol=authors")
    triplets = instantiate(cfg.method.triplets)(margin=cfg.loss.gamma)
    clean = torch.tensor([[0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)
    attacked = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 3, dtype=torch.float64)
    routing = torch.cat([clean, attacked]).requires_grad_()
    terms = triplets(routing, torch.tensor([False, True, True, True]), torch.Generator())
    distance = 0.6**2 + 0.1**2 + 0.2**2 + 0.3**2
    assert terms.loss.item() == pytest.approx(0 - distance + 0.6, rel=1e-12)
    (gradient,) = torch.autograd.grad(terms.loss, routing)
    expected = -2 * (clean - attacked[:1])[0]  # of -|a - n|² in n: each of the three pairs pulls a third
    torch.testing.assert_close(gradient[0], expected)


# --- the crossed branch: 16 clean + 16 attacked + the 16 clean again, routed with the attacked images' detached π


class Fixed:
    """A schedule that hands over the same adversarial batch."""

    def __init__(self, adversarial: AdversarialBatch) -> None:
        self.adversarial = adversarial

    def next(self, model: Any, batch: Batch, generator: torch.Generator) -> AdversarialBatch:
        return self.adversarial


def slow_detection_loss(raws: list[Any], assignments: list[Any]) -> Tensor:
    """Smooth L1 and mined cross-entropy of all images of all branches over the positives of all of them."""
    summed, positives = torch.zeros(()), 0
    for raw, assignment in zip(raws, assignments, strict=True):
        for logits, offsets, labels, wanted in zip(
            raw.cls_logits, raw.bbox_regression, assignment.labels, assignment.regression_targets, strict=True
        ):
            log_probabilities = logits.log_softmax(dim=-1)
            positive = [p for p, label in enumerate(labels.tolist()) if label > 0]
            hardness = {p: -log_probabilities[p, 0].item() for p, label in enumerate(labels.tolist()) if label == 0}
            mined = sorted(hardness, key=lambda p: -hardness[p])[: 3 * len(positive)]
            for p in positive + mined:
                summed = summed - log_probabilities[p, labels[p]]
            for p in positive:
                for difference in offsets[p] - wanted[p]:
                    size = difference.abs()
                    summed = summed + (0.5 * size**2 if size < 1 else size - 0.5)
            positives += len(positive)
    return summed / positives


@pytest.fixture
def double() -> Iterator[None]:
    """As under Lightning's 64-true: what is made on the way is double too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def training_step(compose: Compose, double: None) -> tuple[Any, Any, Batch, AdversarialBatch]:
    # kernels apart from one another, as after some training: between exact copies, π decides nothing
    cfg = compose("train", "experiment=shapes_cfr", "protocol=authors", "model.perturbation=0.3")
    torch.manual_seed(0)
    model = instantiate(cfg.model, num_classes=6).train()
    generator = torch.Generator().manual_seed(1)
    size = cfg.model.input_size
    clean, source, noise = (torch.rand(3, 3, size, size, generator=generator) for _ in range(3))
    targets = [random_target(2, size - 1, generator) for _ in range(6)]
    targets = [
        replace(one, boxes=one.boxes.double(), labels=one.labels % 6 + 1, image_id=str(i))
        for i, one in enumerate(targets)
    ]
    attacked = (source + (noise - 0.5) * 16 / 255).clamp(0, 1)
    adversarial = AdversarialBatch(attacked, Batch(source, targets[3:]))
    method = instantiate(cfg.method)
    assert method.crossed_branch == "clean"
    method.schedule = Fixed(adversarial)
    return method, model, Batch(clean, targets[:3]), adversarial


def test_the_crossed_branch_joins_detection_reconstruction_and_kld_but_not_the_triplets(
    training_step: tuple[Any, Any, Batch, AdversarialBatch],
) -> None:
    method, model, batch, adversarial = training_step
    parameters = dict(model.named_parameters())
    output = method.step(model, batch, torch.Generator().manual_seed(5))
    ours = torch.autograd.grad(output.loss, list(parameters.values()), allow_unused=True)

    generator, source = torch.Generator().manual_seed(5), adversarial.source
    both = model(torch.cat([batch.images, adversarial.images]), generator)
    triplets = method.triplets(both.routing, torch.tensor([False] * 3 + [True] * 3), generator).loss
    crossed = model(batch.images, generator, both.routing[3:].detach())
    detection = slow_detection_loss(
        [both, crossed], [model.assign([*batch.targets, *source.targets]), model.assign(batch.targets)]
    )
    originals = torch.cat([batch.images, source.images, batch.images])
    mse = (255 * torch.cat([both.reconstruction, crossed.reconstruction]) - 255 * originals).square().mean()
    mean, log_variance = (
        torch.cat([getattr(raw, field) for raw in (both, crossed)]) for field in ("mean", "log_variance")
    )
    kl = (0.5 * (mean**2 + log_variance.exp() - log_variance - 1)).mean()
    expected = 0.75 * (detection + 3 * triplets) + (0.16 * mse + 5 * kl) / 255

    torch.testing.assert_close(output.loss, expected, rtol=1e-9, atol=0)
    theirs = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    for name, mine, other in zip(parameters, ours, theirs, strict=True):
        assert (mine is None) == (other is None), name
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-12, msg=name)
    assert any(name.startswith("aid") and gradient is not None for name, gradient in zip(parameters, ours, strict=True))


# --- DAG: 150 steps of 0.5/255, each from the clean image plus the latest perturbation alone, summed up at the end


def slow_dag(detector: Any, image: Tensor, one: Target, wrong: list[int]) -> Tensor:
    true = detector.assign([one]).labels[0].tolist()
    latest, summed = torch.zeros_like(image), torch.zeros_like(image)
    for _ in range(150):
        x = (image + latest).clamp(0, 1).requires_grad_()
        log_probabilities = detector(x[None]).cls_logits[0].log_softmax(dim=-1)
        said = log_probabilities.argmax(dim=-1).tolist()
        active = [p for p in range(len(true)) if said[p] != wrong[p]]
        value = sum(log_probabilities[p, wrong[p]] - log_probabilities[p, true[p]] for p in active)
        (gradient,) = torch.autograd.grad(value, x)
        latest = 0.5 / 255 * gradient / gradient.abs().max()
        summed = summed + latest
    return (image + summed).clamp(0, 1)


def test_dag_as_the_protocol_sets_it(compose: Compose) -> None:
    attack = instantiate(compose("evaluate", "protocol=authors").suite.attacks.dag)
    detector, (images, targets) = fakes.detector().eval(), fakes.batch()
    ours = attack(DetectorVictim(detector), images, targets, image_generators(0, [t.image_id for t in targets]))
    assert (ours - images).abs().max() > 16 / 255  # no ball of 8/255 bounds it
    for i, one in enumerate(targets):
        generator = image_generators(0, [one.image_id])[0]
        true = detector.assign([one]).labels[0].tolist()
        draws = torch.randint(2**31, (len(true),), generator=generator).tolist()
        # any of the other labels, the background too
        others = [[label for label in range(fakes.CLASSES + 1) if label != t] for t in true]
        wrong = [
            next(label for label in others[p] if (label - t - 1) % (fakes.CLASSES + 1) == draws[p] % fakes.CLASSES)
            for p, t in enumerate(true)
        ]
        torch.testing.assert_close(ours[i], slow_dag(detector, images[i], one, wrong), rtol=0, atol=2e-4)


# --- the VOC evaluator: detections through a text file, 11 points, IoU above 0.5, no "+1" in areas


def lines_of(found: dict[str, Detections], truth: dict[str, Target], label: int, size: int) -> list[str]:
    """The detections file of a class: 1-based pixels of the original image with one decimal, scores with three."""
    lines = []
    for name in sorted(found):
        height, width = truth[name].original_size
        for box, score, of in zip(
            *(getattr(found[name], f).tolist() for f in ("boxes", "scores", "labels")), strict=True
        ):
            if of == label:
                x1, y1, x2, y2 = (v / size * side for v, side in zip(box, (width, height) * 2, strict=True))
                lines.append(f"{name} {score:.3f} {x1 + 1:.1f} {y1 + 1:.1f} {x2 + 1:.1f} {y2 + 1:.1f}")
    return lines


def annotated(truth: dict[str, Target], label: int, size: int) -> dict[str, list[tuple[list[float], bool]]]:
    """Objects of a class as the annotation has them, each number less 1: upper edges inclusive."""
    found: dict[str, list[tuple[list[float], bool]]] = {}
    for name, one in truth.items():
        height, width = one.original_size
        found[name] = [
            (
                [v / size * side - edge for v, side, edge in zip(box, (width, height) * 2, (0, 0, 1, 1), strict=True)],
                hard,
            )
            for box, of, hard in zip(one.boxes.tolist(), one.labels.tolist(), one.difficult.tolist(), strict=True)
            if of == label
        ]
    return found


def overlap(a: list[float], b: list[float]) -> float:
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_voc07(lines: list[str], objects: dict[str, list[tuple[list[float], bool]]]) -> float:
    countable = sum(not hard for image in objects.values() for _, hard in image)
    parsed = [(name, float(score), [float(v) for v in box]) for name, score, *box in (line.split() for line in lines)]
    hits, misses, taken, points = 0, 0, set(), []
    for name, _, box in sorted(parsed, key=lambda entry: -entry[1]):  # stable: ties in the file's order
        overlaps = [overlap(box, of) for of, _ in objects[name]]
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        if best is None or overlaps[best] <= 0.5:
            misses += 1
        elif objects[name][best][1]:
            continue
        elif (name, best) in taken:
            misses += 1
        else:
            taken.add((name, best))
            hits += 1
        points.append((hits / countable, hits / (hits + misses)))
    reached = [[precision for recall, precision in points if recall >= r / 10 - 1e-9] for r in range(11)]
    return sum(max(precisions, default=0.0) for precisions in reached) / 11


@pytest.mark.parametrize("seed", range(4))
def test_the_voc_metric_is_that_of_a_text_file(seed: int) -> None:
    size, classes = 100, 3
    found, truth = scene(num_images=15, num_classes=classes, seed=seed)
    sizes = [(500, 375), (333, 500), (48, 64)]
    truth = {name: replace(one, original_size=sizes[i % 3]) for i, (name, one) in enumerate(truth.items())}
    # a few scores, so that they tie in the file and the order of its lines decides
    found = {name: replace(one, scores=(one.scores * 20).round() / 20 + 1e-4) for name, one in found.items()}
    ours = AuthorsVocMetric(classes, input_size=size)(found, truth)
    expected = [
        slow_voc07(lines_of(found, truth, label, size), annotated(truth, label, size))
        for label in range(1, classes + 1)
    ]
    assert ours.headline.per_class == pytest.approx(expected, abs=1e-12)
    assert ours.headline.mean == pytest.approx(sum(expected) / classes, abs=1e-12)


def test_the_voc_metric_by_hand() -> None:
    """Three cats in images of 500 x 500 that reach a network of 300: 0.6 of its pixels are one of theirs.

    All are found exactly. In the file, a's box is (1, 1, 101, 101) against the annotation's (0, 0, 99, 99): IoU 9604 /
    (10000 + 9801 - 9604) = 0.94; its second detection finds the same cat again. b's is 6 pixels wide: (1, 1, 7, 101)
    and (0, 0, 5, 99) overlap in 4 * 98 = 392 of 600 + 495 - 392 = 703, 0.56. c's is 4 wide: 2 * 98 = 196 of
    400 + 297 - 196 = 501, 0.39, a miss.
    """

    def box(x2: float, y2: float) -> list[list[float]]:
        return [[0, 0, x2 * 0.6, y2 * 0.6]]

    original = (500, 500)
    truth = {
        "a": target("a", box(100, 100), [1], original_size=original),
        "b": target("b", box(6, 100), [1], original_size=original),
        "c": target("c", box(4, 100), [1], original_size=original),
    }
    found = {
        "a": detections(box(100, 100) * 2, [0.9, 0.8], [1, 1]),
        "b": detections(box(6, 100), [0.7004], [1]),
        "c": detections(box(4, 100), [0.7001], [1]),
    }
    # hit, miss, hit (b's 0.700 ties with c's and comes first in the file), miss: recall 1/3, 1/3, 2/3, 2/3 at precision
    # 1, 1/2, 2/3, 1/2. Of eleven recalls 0..0.3 have 1, 0.4..0.6 have 2/3, the others 0.
    expected = (4 * 1 + 3 * 2 / 3) / 11
    assert AuthorsVocMetric(1, input_size=300)(found, truth).headline.mean == pytest.approx(expected, abs=1e-12)
