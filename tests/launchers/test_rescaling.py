"""A suite at another ε: every ball of that size, steps in proportion, a name of its own that tables understand."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from robustdet.attacks.threat import ratio
from robustdet.cli.building import plain
from robustdet.cli.composition import CONF, composed
from robustdet.cli.ladder import without_ladder
from robustdet.cli.rescaling import balls, named, rescaled, unbounded
from robustdet.errors import InputError

NAMED_BY_SIZES = {"ladder", "reliable", "sanity"}
SUITES = sorted(file.stem for file in (CONF / "suite").glob("*.yaml"))


def at(suite: str, epsilon: str) -> dict[str, Any]:
    cfg = composed("evaluate", [f"suite={suite}", f"suite.epsilon={epsilon}"]).suite
    return plain(without_ladder(rescaled(cfg)))


@pytest.mark.parametrize("suite", sorted(set(SUITES) - NAMED_BY_SIZES))
def test_every_ball_of_every_suite_follows(suite: str):
    before, after = at(suite, "null"), at(suite, "2/255")
    assert after["name"] == f"{suite}_eps_2"
    old, new = (one["attacks"] | (one.get("otherwise") or {}) for one in (before, after))
    assert new.keys() == old.keys()
    found = [size for attack in new.values() for size in balls(attack)]
    assert len(found) == sum(len(balls(attack)) for attack in old.values())
    assert set(found) <= {ratio("2/255"), 0}  # what has no ball to speak of has none at another ε


@pytest.mark.parametrize("suite", sorted(NAMED_BY_SIZES))
def test_a_suite_whose_attacks_are_named_by_their_sizes_is_refused(suite: str):
    with pytest.raises(
        InputError, match=rf"suite={suite} has (balls of several sizes: 2/255, 4/|a ladder of step siz)"
    ):
        at(suite, "4/255")


def test_what_no_ball_bounds_is_named():
    assert unbounded(composed("evaluate", ["suite=paper"]).suite) == ["dag"]


def test_steps_are_in_proportion_and_an_attack_without_a_ball_stays():
    before, after = at("paper", "null")["attacks"], at("paper", "4/255")["attacks"]
    assert after["pgd_cls"] == before["pgd_cls"] | {
        "step_size": "4/255",
        "threat": before["pgd_cls"]["threat"] | {"epsilon": "4/255"},
    }
    assert after["dag"] == before["dag"]
    strong = at("strongest", "0.5/255")["attacks"]
    assert strong["aid_steer_0"]["attack"]["step_size"] == "0.03125/255"
    assert strong["ap_surrogate"]["first_step"] == "0.5/255"


def test_a_name_says_its_suite_and_size():
    assert named("paper_eps_4") == ("paper", "4/255")
    assert named("strongest_eps_0_5") == ("strongest", "0.5/255")
    assert named("paper") == ("paper", None)


def test_nothing_is_changed_where_nothing_is_said():
    suite = OmegaConf.create({"name": "mine", "epsilon": None, "attacks": {}})
    assert rescaled(suite) is suite


@pytest.mark.parametrize(
    ("epsilon", "said"),
    [("0/255", "expected a size above 0"), ("4", "suite.epsilon: expected a fraction of the pixel")],
)
def test_sizes_that_are_none_are_refused(epsilon: str, said: str):
    with pytest.raises(InputError, match=said):
        at("paper", epsilon)
