"""A warm-up of ε: the ball of each update, in both schedules, across a resumption, and what it is not for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustdet.attacks import MTD, PGD, LInf
from robustdet.attacks.objectives import a_cls
from robustdet.attacks.threat import PixelRange
from robustdet.defences.epsilon_warmup import EpsilonWarmup
from robustdet.defences.schedules import Full, Replay, Schedule
from robustdet.errors import InputError
from tests.defences import slowly

ATTACK = PGD(a_cls, LInf("8/255"), steps=2, step_size="8/255")


def reached(schedule: Schedule, model: Any, updates: range) -> list[float]:
    """How far the furthest pixel has moved in each update, in units of 1/255."""
    found = []
    for update in updates:
        adversarial = schedule.next(model, slowly.batch(update), torch.Generator().manual_seed(update))
        found.append(255 * float((adversarial.images - adversarial.source.images).abs().max()))
    return found


def schedules() -> list[Schedule]:
    return [Full(ATTACK, epsilon_warmup=4), Replay(ATTACK, 3, ["8/255"], epsilon_warmup=4)]


@pytest.mark.parametrize("which", [0, 1], ids=["full", "replay"])
def test_the_ball_grows_linearly_to_its_size(which: int) -> None:
    model, schedule = slowly.build("tiny_ssd"), schedules()[which]
    assert reached(schedule, model, range(6)) == pytest.approx([2, 4, 6, 8, 8, 8], abs=1e-3)
    assert ATTACK.threat.epsilon == 8 / 255


@pytest.mark.parametrize("which", [0, 1], ids=["full", "replay"])
def test_a_resumed_run_goes_on_where_it_was(which: int) -> None:
    model, first, second = slowly.build("tiny_ssd"), schedules()[which], schedules()[which]
    reached(first, model, range(2))
    second.load_state_dict(first.state_dict())
    assert reached(second, model, range(2, 4)) == pytest.approx([6, 8], abs=1e-3)


def test_micro_batches_of_one_update_share_its_ball() -> None:
    model, schedule = slowly.build("tiny_ssd"), Full(ATTACK, epsilon_warmup=4)
    for update in range(2):
        for place in range(2):
            batch = slowly.batch(place)
            adversarial = schedule.next(model, type(batch)(batch.images, batch.targets, place), torch.Generator())
            moved = 255 * float((adversarial.images - batch.images).abs().max())
            assert moved == pytest.approx(2 * (update + 1), abs=1e-3)


def test_without_a_warmup_the_attack_is_the_one_that_was_given() -> None:
    warmup = EpsilonWarmup(ATTACK, 0)
    assert warmup.within(ATTACK, 1) is ATTACK
    mtd = MTD(LInf("4/255"), 1, "2/255")
    assert EpsilonWarmup(mtd, 10).within(mtd, 5).threat.epsilon == pytest.approx(2 / 255)
    assert EpsilonWarmup(mtd, 10).within(mtd, 10) is mtd


def test_what_has_no_ball_or_no_number_of_updates_is_told() -> None:
    attack = PGD(a_cls, LInf("8/255"), 1, "2/255")
    with pytest.raises(InputError, match=r"^epsilon_warmup is -1, expected a number of updates, 0 or more$"):
        EpsilonWarmup(attack, -1)
    attack.threat = PixelRange()  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"^epsilon_warmup=5 is for an L∞ ball, and PGD has a PixelRange: set it to 0"):
        EpsilonWarmup(attack, 5)
