"""What an attack declares, and the errors of one that does not."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from robustdet.attacks import (
    APGD,
    DAG,
    MTD,
    PGD,
    Adaptive,
    BFloat16,
    HighestLoss,
    LInf,
    Mislabelling,
    Noise,
    PixelRange,
)
from robustdet.attacks.base import BaseAttack, require_attack, require_count, require_stepwise
from robustdet.attacks.objectives import total
from robustdet.attacks.victim import DetectorVictim
from robustdet.defences.schedules import Replay
from robustdet.errors import InputError
from robustdet.types import Attack, StepwiseAttack
from tests.attacks import fakes

BALL = LInf("8/255")


class Copy(BaseAttack):
    threat = PixelRange()

    def __call__(self, victim: Any, images: Any, targets: Any, generators: Any) -> Any:
        return images.clone()


def test_the_defaults_are_those_of_a_white_box_without_a_known_objective():
    attack = require_attack(Copy())
    assert isinstance(attack, Attack)
    assert (attack.knowledge, attack.objective, attack.objective_bound) == ("gradients", None, None)
    assert attack.threat.epsilon is None


@pytest.mark.parametrize("value", [-1, 2.0, "3", True, None])
def test_a_count_is_a_whole_number(value: Any):
    with pytest.raises(InputError, match=rf"expected a whole number of 0 or more, got steps={value!r}$"):
        require_count("steps", value)


def test_a_count_may_be_of_numpy():
    count = require_count("steps", np.int64(3))
    assert (count, type(count)) == (3, int)


DOORS = """
from robustdet.attacks import Adaptive, BFloat16, HighestLoss, LInf, Transfer
from robustdet.attacks.base import require_attack
from robustdet.defences.schedules import Full, Replay
from robustdet.evaluation.pipeline import SuiteEvaluator
from torch import nn

class Bare:
    threat = LInf(0)
    def __call__(self, victim, images, targets, generators):
        return images

for name, door in {
    "alone": require_attack,
    "Full": Full,
    "Replay": lambda attack: Replay(attack, 1, ["2/255"]),
    "Adaptive": Adaptive,
    "BFloat16": BFloat16,
    "Transfer": lambda attack: Transfer(nn.Identity(), attack),
    "HighestLoss": lambda attack: HighestLoss({"bare": attack}),
    "SuiteEvaluator": lambda attack: SuiteEvaluator({"clean": None, "bare": attack}, {}, "nowhere", {}),
}.items():
    try:
        door(Bare())
        print(name, "let it pass")
    except TypeError as error:
        print(name, "says", error)
"""
LACKS = (
    "Bare is no attack: it lacks knowledge (one of nothing, outputs, gradients, discriminator); needs (of its victim: "
    "one of detections, losses, scores); objective (what it climbs, a function of a borrowed victim and images, or "
    "None); objective_bound (the largest value that its objective can take, or None). "
    "robustdet.attacks.BaseAttack has defaults"
)


@pytest.mark.slow
def test_what_is_missing_is_named_at_every_door():
    """In a process of its own: the checker of annotations that tests run under would be the first to complain."""
    run = subprocess.run([sys.executable, "-c", DOORS], capture_output=True, encoding="utf-8", check=True)
    doors = ["alone", "Full", "Replay", "Adaptive", "BFloat16", "Transfer", "HighestLoss", "SuiteEvaluator"]
    assert run.stdout.splitlines() == [f"{door} says {LACKS}" for door in doors]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("threat", "8/255", r"Copy\.threat is '8/255'; expected where its images lie: LInf\(ε\), or PixelRange\(\)"),
        ("threat", None, r"Copy\.threat is None; expected where its images lie"),
        ("knowledge", "everything", r"Copy\.knowledge is 'everything'; expected one of nothing, outputs, gradients, d"),
        ("needs", "everything", r"Copy\.needs is 'everything'; expected of its victim: one of detections, losses, sc"),
        ("objective", "total", r"Copy\.objective is 'total'; expected what it climbs, a function of a borrowed victim"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(field: str, value: Any, text: str):
    attack = type("Copy", (Copy,), {field: value})()
    with pytest.raises(TypeError, match=text):
        require_attack(attack)


def test_what_cannot_be_called_is_no_attack():
    with pytest.raises(TypeError, match="LInf is no attack: it lacks threat"):
        require_attack(BALL)
    with pytest.raises(TypeError, match="NoneType is no attack"):
        require_attack(None)


@pytest.mark.parametrize(
    "attack",
    [
        APGD(total, BALL),
        DAG(BALL),
        Noise(BALL),
        BFloat16(APGD(total, BALL)),
        Adaptive(PGD(total, BALL, 1, "1/255")),
        HighestLoss({"pgd": PGD(total, BALL, 1, "1/255")}),
        Copy(),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_replay_refuses_an_attack_that_is_more_than_a_step(attack: Any):
    assert not isinstance(attack, StepwiseAttack)
    text = rf"the schedule `replay` asks its attack for single steps, and {type(attack).__name__} is more than a step"
    with pytest.raises(TypeError, match=text):
        Replay(attack, updates_per_source=2, step_sizes=["2/255"])


def test_a_loop_of_its_own_needs_a_step_of_its_own():
    """Else replay would train on the parent in silence."""

    def remembering(self: Any, victim: Any, images: Any, targets: Any, generators: Any) -> Any:
        raise AssertionError

    for parent in (PGD, MTD):
        text = "Momentum has a __call__ of its own but its parent's step, which `replay` would train on"
        with pytest.raises(TypeError, match=text):
            type("Momentum", (parent,), {"__call__": remembering})
        kind = type("Momentum", (parent,), {"__call__": remembering, "step": parent.step})
        assert issubclass(kind, parent)


@pytest.mark.parametrize("wrap", [lambda attack: attack, BFloat16], ids=["itself", "BFloat16"])
@pytest.mark.parametrize(
    "attack",
    [PGD(total, BALL, 4, "2/255"), PGD(Mislabelling(), BALL, 4, "2/255"), MTD(BALL, 4, "2/255")],
    ids=["PGD", "mislabelling", "MTD"],
)
def test_an_attack_that_steps_is_its_step_repeated(attack: Any, wrap: Any):
    attack = wrap(attack)
    images, targets = fakes.batch()
    victim = DetectorVictim(fakes.detector())
    whole = attack(victim, images, targets, [torch.Generator() for _ in targets])
    with victim.borrow(targets) as model:
        iterate = images
        for _ in range(4):
            iterate = require_stepwise(attack, "this test").step(model, iterate, images)
    assert torch.equal(whole, iterate)


def test_an_attack_can_be_copied_and_sent_to_another_process():
    attack = BFloat16(MTD(BALL, 4, "2/255"))
    for twin in (copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))):
        assert require_stepwise(twin, "this test").threat.epsilon == BALL.epsilon
