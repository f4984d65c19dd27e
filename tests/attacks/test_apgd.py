from itertools import pairwise

import pytest
import torch

from robustdet.attacks.adam import Adam
from robustdet.attacks.apgd import APGD, checkpoints
from robustdet.attacks.base import BaseAttack
from robustdet.attacks.objectives import a_cls, a_loc, total
from robustdet.attacks.pgd import PGD
from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import LInf
from robustdet.attacks.victim import DetectorVictim, input_gradient
from tests.attacks import fakes

THREAT = LInf("8/255")


def generators(seed: int = 0) -> list[torch.Generator]:
    return image_generators(seed, ["two", "one", "none"])


def values(victim, objective, images, targets) -> torch.Tensor:
    with victim.borrow(targets) as model, torch.no_grad():
        return objective(model, images)


def slow_apgd(victim, objective, clean, target, start, steps: int) -> float:
    """Algorithm 1 for one image, written from the paper with its whole history in lists."""
    marks, p = [], [0.0, 0.22]
    while p[-1] <= 1:
        marks.append(-int(-steps * round(p[-1], 6) // 1))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    with victim.borrow([target]) as model:

        def f(x):
            with torch.no_grad():
                return float(objective(model, x))

        def sign(x):
            x = x.clone().requires_grad_()
            return input_gradient(objective(model, x), x).sign()

        step, x, best = 2 * THREAT.epsilon, [start], start
        f_history, checked = [f(start)], [(0, True, f(start))]  # after which step; was it halved; the highest then
        for k in range(steps):
            z = THREAT.project(x[-1] + step * sign(x[-1]), clean)
            if k:
                z = THREAT.project(x[-1] + 0.75 * (z - x[-1]) + 0.25 * (x[-1] - x[-2]), clean)
            x.append(z)
            f_history.append(f(z))
            best = z if f(z) > f(best) else best
            if k + 1 in marks:
                last, was_halved, highest = checked[-1]
                rose = sum(f_history[i + 1] > f(x[i]) for i in range(last, k + 1))  # x_i after going back, if it did
                halve = rose < 0.75 * (k + 1 - last) or (not was_halved and highest == f(best))
                step, x[-1] = (step / 2, best) if halve else (step, x[-1])
                checked.append((k + 1, halve, f(best)))
        return f(best)


@pytest.mark.parametrize("objective", [a_cls, total])
@pytest.mark.parametrize("steps", [10, 33])
def test_a_run_is_the_papers_algorithm(objective, steps):
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    for image, target in zip(images[:2, None], targets[:2], strict=True):
        (start,) = THREAT.uniform(image, image_generators(5, [target.image_id])).split(1)
        value = slow_apgd(victim, objective, image, target, start, steps)
        attack = APGD(objective, THREAT, steps, ["random"])
        found = attack(victim, image, [target], image_generators(5, [target.image_id]))
        assert float(values(victim, objective, found, [target])) == pytest.approx(value, rel=1e-4)


def test_checkpoints_are_the_papers():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(50) == [11, 21, 29, 35, 40, 44, 47, 50]


@pytest.mark.parametrize("objective", [a_cls, a_loc, total])
def test_on_a_convex_loss_it_is_not_weaker_than_pgd(objective):
    victim, (images, targets) = fakes.ConvexVictim(), fakes.batch()
    apgd = APGD(objective, THREAT, 20, ["random"])(victim, images, targets, generators())
    pgd = PGD(objective, THREAT, 20, "2/255")(victim, images, targets, generators())
    assert (objective(victim, apgd) >= objective(victim, pgd) - 1e-5).all()


def test_on_a_detector_it_beats_the_papers_pgd():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    apgd = APGD(total, THREAT, 20, ["random"])(victim, images, targets, generators())
    pgd = PGD(total, THREAT, 20, "8/255")(victim, images, targets, generators())
    assert (values(victim, total, apgd, targets) >= values(victim, total, pgd, targets) - 1e-4).all()


def test_another_start_never_lowers_an_images_objective():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    starts = ["clean", "random", "random", "best"]
    found = [
        values(victim, total, APGD(total, THREAT, 3, starts[:number])(victim, images, targets, generators()), targets)
        for number in range(1, 5)
    ]
    assert all((later >= earlier).all() for earlier, later in pairwise(found))
    assert (found[-1] > found[0]).any()


def test_each_start_is_where_it_says():
    """The objective is seen first at the clean image, for the peak, and then at the start of each climb."""
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    seen = []

    def watched(model, x):
        seen.append(x.detach().clone())
        return total(model, x)

    attack = APGD(watched, THREAT, 2, ["clean", "random", "best"])
    attack(victim, images, targets, generators())
    climbs = [seen[place] for place in (1, 4, 7)]
    assert torch.equal(climbs[0], images)
    assert torch.equal(climbs[1], THREAT.uniform(images, generators()))
    best = values(victim, total, climbs[2], targets)
    assert torch.equal(best, torch.stack([values(victim, total, x, targets) for x in seen[:7]]).amax(dim=0))


def test_the_first_step_is_as_small_as_asked():
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    attack = APGD(total, THREAT, 1, ["clean"], first_step="0.5/255")
    changed = attack(victim, images, targets, generators())[:2] - images[:2]
    assert changed.abs().max().item() == pytest.approx(0.5 / 255, abs=1e-6)


def test_a_hostile_objective_leaves_the_clean_image():
    victim, (images, targets) = fakes.ConvexVictim(), fakes.batch()

    def distance(model, x):  # falls wherever one goes; its gradient points away from the clean image
        return -(x - images).square().sum(dim=(1, 2, 3))

    assert torch.equal(APGD(distance, THREAT, 1, ["random", "random"])(victim, images, targets, generators()), images)


def test_every_image_halves_its_own_step():
    """An image that climbs steadily keeps its pace beside one that oscillates: both do what they do alone."""
    victim, (images, targets) = fakes.ConvexVictim(), fakes.batch()
    goal = images + torch.tensor([8.0, 1.0, 0.5]).view(-1, 1, 1, 1) / 255

    def reach(model, x, goal=goal):
        return -(x - goal).abs().sum(dim=(1, 2, 3))

    together = APGD(reach, THREAT, 30, ["random"])(victim, images, targets, generators())
    for i in range(3):
        one = slice(i, i + 1)
        alone = APGD(lambda model, x, g=goal[one]: reach(model, x, g), THREAT, 30, ["random"])
        assert torch.equal(alone(victim, images[one], targets[one], generators()[one]), together[one])
    assert (reach(victim, together) > 0.5 * reach(victim, images)).all()


@pytest.mark.parametrize("starts", [[], ["clean", "middle"]])
def test_other_starts_are_refused(starts):
    with pytest.raises(ValueError, match="expected one start or more out of clean, random, best or an attack, got"):
        APGD(total, THREAT, 5, starts)


def test_goes_on_from_what_an_attack_makes():
    """Inside the ball: what that attack leaves outside is put back."""
    images, targets = fakes.batch()
    outside = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))

    class Outside(BaseAttack):
        threat = LInf("255/255")

        def __call__(self, victim, images, targets, generators):
            return outside

    there = THREAT.project(outside, images)

    def nearness(model, x):
        return -(x - there).abs().flatten(1).sum(1)

    victim = DetectorVictim(fakes.detector())
    assert torch.equal(APGD(nearness, THREAT, 1, [Outside()])(victim, images, targets, generators()), there)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_keep_their_type_whatever_that_of_the_objective(dtype):
    images, targets = fakes.batch()
    victim = DetectorVictim(fakes.detector())
    attack = APGD(lambda model, x: total(model, x).to(dtype), THREAT, 5, ["clean", "random", "best"])
    assert attack(victim, images, targets, generators()).dtype == images.dtype == torch.float32


@pytest.mark.parametrize("kind", [APGD, Adam])
@pytest.mark.parametrize("broken", [1, 2, 3])  # the clean image, the first start, a step of its climb
def test_what_is_no_number_once_costs_an_image_no_later_start(kind, broken):
    victim, (images, targets) = DetectorVictim(fakes.detector()), fakes.batch()
    calls = []

    def objective(model, x):
        calls.append(len(x))
        return total(model, x) * torch.tensor([float("nan") if len(calls) == broken else 1.0, 1.0, 1.0])

    made = kind(objective, THREAT, 3, ["clean", "random"])(victim, images, targets, generators())
    alone = kind(total, THREAT, 3, ["random"])(victim, images, targets, generators())
    assert made.isfinite().all()
    assert (values(victim, total, made, targets) >= values(victim, total, alone, targets)).all()
