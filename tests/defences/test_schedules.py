"""Full and Replay against attacks made image by image, step by step, while the weights move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustdet.attacks import MTD, PGD, ClassWise, LInf
from robustdet.attacks.base import BaseAttack
from robustdet.attacks.objectives import a_cls, a_loc
from robustdet.attacks.threat import PixelRange
from robustdet.defences.schedules import Full, Replay
from robustdet.types import Batch
from tests.attacks import fakes
from tests.defences import slowly
from tests.slowness import quick

BALL = LInf("8/255")
ATTACKS: dict[str, Callable[[int], Any]] = {
    "a_cls": lambda steps: PGD(a_cls, BALL, steps, "2/255"),
    "a_loc": lambda steps: PGD(a_loc, BALL, steps, "2/255"),
    "mtd": lambda steps: MTD(BALL, steps, "2/255"),
    "cwat": lambda steps: PGD(ClassWise(), BALL, steps, "2/255"),
}


def learn(model: Any) -> None:
    """What an update does to an attack: the weights are others afterwards."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


class Marching(BaseAttack):
    """An attack that moves every pixel up by the step it is told, so that images say what was done to them."""

    threat = PixelRange()

    def __call__(self, *_: Any) -> Any:
        raise AssertionError("replay takes single steps")

    def step(self, model: Any, adversarial: Tensor, clean: Tensor, step_size: Any = None) -> Tensor:
        return adversarial + step_size


SIZES = [0.001, 0.003, 0.009]


def grey(number: int, micro_batch: int = 0) -> Batch:
    return replace(slowly.batch(number), images=torch.full((2, 3, 4, 4), number / 1000), micro_batch=micro_batch)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", quick(ATTACKS, lambda name: name != "mtd"))
def test_full_is_the_whole_attack_on_every_batch_with_the_weights_of_the_day(name: str):
    model, schedule = slowly.build("tiny_robust_ssd_cfr"), Full(ATTACKS[name](3))
    for update in range(2):
        source = slowly.batch(update, count=2 + update)
        found = schedule.next(model, source, torch.Generator().manual_seed(update))
        expected = source.images
        for _ in range(3):
            expected = slowly.moved(name, model, expected, source, 2 / 255)
        close(found.images, expected)
        assert found.source is source
        learn(model)


def test_full_draws_anew_for_every_update_and_alike_for_a_generator_in_the_same_state():
    model, source = slowly.build("tiny_ssd"), slowly.batch(0)
    schedule = Full(PGD(a_cls, BALL, 0, "2/255", random_start=True))
    generator = torch.Generator().manual_seed(3)
    first, second = (schedule.next(model, source, generator).images for _ in range(2))
    again = schedule.next(model, source, torch.Generator().manual_seed(3)).images
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert float((first - source.images).abs().max()) <= 8 / 255


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", quick(ATTACKS, lambda name: name != "mtd"))
def test_replay_takes_one_step_an_update_on_a_source_that_stays(name: str):
    model = slowly.build("tiny_robust_ssd_cfr")
    schedule = Replay(ATTACKS[name](20), updates_per_source=2, step_sizes=["4/255"])
    for update in range(5):
        fresh = slowly.batch(update, count=2 + (update == 2))
        if update % 2 == 0:
            source, iterate = fresh, fresh.images
        found = schedule.next(model, fresh, torch.Generator().manual_seed(update))
        iterate = slowly.moved(name, model, iterate, source, 4 / 255)
        close(found.images, iterate)
        assert found.source is source
        learn(model)


@pytest.mark.parametrize("updates_per_source", [1, 2, 5])
def test_a_source_serves_so_many_updates_and_each_draws_its_step_size(updates_per_source: int):
    schedule, generator = Replay(Marching(), updates_per_source, SIZES), torch.Generator().manual_seed(0)
    drawn = []
    for number in range(60):
        for update in range(updates_per_source):
            found = schedule.next(
                fakes.FakeDetector(), grey(number if update == 0 else 900), generator
            )  # a later batch is no source
            assert [target.image_id for target in found.source.targets] == [f"{number}-0", f"{number}-1"]
            travelled = found.images.double() - number / 1000
            if update == 0:
                drawn.append(min(SIZES, key=lambda size: abs(size - float(travelled.mean()))))
            torch.testing.assert_close(
                travelled, torch.full_like(travelled, drawn[-1] * (update + 1)), atol=1e-6, rtol=0
            )
    assert {size: drawn.count(size) > 8 for size in SIZES} == dict.fromkeys(SIZES, True)
    assert len({tuple(drawn[start : start + 3]) for start in range(0, 57, 3)}) > 8  # in no fixed order


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_updates_are_counted_not_micro_batches_and_each_of_these_has_its_own_source(micro_batches: int):
    """As of one batch that is as large as all of them: every source is moved once an update."""
    schedule, generator = Replay(Marching(), 4, SIZES), torch.Generator().manual_seed(1)
    number, sources, size = 0, {}, {}
    for update in range(12):
        for place in range(micro_batches):
            number += 1
            found = schedule.next(fakes.FakeDetector(), grey(number, place), generator)
            if update % 4 == 0:
                sources[place] = number
                size[place] = min(SIZES, key=lambda s: abs(s - float((found.images.double() - number / 1000).mean())))
            assert found.source.targets[0].image_id == f"{sources[place]}-0"
            expected = sources[place] / 1000 + size[place] * (update % 4 + 1)
            torch.testing.assert_close(found.images, torch.full_like(found.images, expected), atol=1e-6, rtol=0)


def test_a_short_update_at_the_end_of_an_epoch_leaves_the_other_sources_where_they_are():
    schedule, generator = Replay(Marching(), 2, [0.001]), torch.Generator()
    places = [0, 1, 0, 0, 1, 0, 1]  # updates of 2, 1, 2 and 2 micro-batches
    served = [schedule.next(fakes.FakeDetector(), grey(n, place), generator) for n, place in enumerate(places)]
    assert [int(found.source.targets[0].image_id[0]) for found in served] == [0, 1, 0, 3, 1, 3, 6]


@pytest.mark.parametrize("stop", range(6))
def test_a_replay_that_goes_on_from_its_state_makes_the_same_images(stop: int):
    calls = [(number, number % 2) for number in range(12)]

    def generator(number: int) -> torch.Generator:
        return torch.Generator().manual_seed(number)

    whole = Replay(Marching(), 2, SIZES)
    expected = [whole.next(fakes.FakeDetector(), grey(n, place), generator(n)).images for n, place in calls]
    begun, resumed = Replay(Marching(), 2, SIZES), Replay(Marching(), 2, SIZES)
    for n, place in calls[:stop]:
        begun.next(fakes.FakeDetector(), grey(n, place), generator(n))
    resumed.load_state_dict(begun.state_dict())
    for n, place in calls[stop:]:
        assert torch.equal(resumed.next(fakes.FakeDetector(), grey(n, place), generator(n)).images, expected[n])


def test_a_source_for_no_update_is_refused():
    with pytest.raises(ValueError, match="updates_per_source is 0, expected 1 or more"):
        Replay(Marching(), 0, SIZES)
