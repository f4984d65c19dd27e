"""`suite.ladder`: every objective × step size × start, said once."""

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from robustdet.attacks import DAG, Adaptive, HighestLoss, Noise
from robustdet.cli.building import plain
from robustdet.cli.composition import composed
from robustdet.cli.ladder import in_levels, without_ladder


def expanded(*overrides: str):
    return without_ladder(composed("evaluate", ["suite=ladder", *overrides]).suite)


def test_each_attack_climbs_in_each_step_size_and_from_each_start():
    suite = expanded()
    rungs = ["8", "2", "0_5", "0_25", "random", "best"]
    names = ["pgd_cls", "pgd_loc", "pgd_total", "cwa", "dag", "tog_vanishing", "tog_fabrication", "tog_mislabelling",
             "aid_fool"]  # fmt: skip
    assert list(suite.attacks) == ["clean", *(f"{name}_{rung}" for name in names for rung in rungs)]
    attacks = {name: instantiate(node) for name, node in suite.attacks.items() if node is not None}
    for name, attack in attacks.items():
        climb = attack.attack if isinstance(attack, Adaptive) else attack
        kind = name.rpartition("_")[2]
        assert climb.steps == 50
        assert (climb.gamma if isinstance(climb, DAG) else climb.step_size) == pytest.approx(
            {"8": 8, "5": 0.5, "25": 0.25}.get(kind, 2) / 255
        )
        assert not getattr(climb, "random_start", False)
        expected = {"random": Noise, "best": HighestLoss}.get(kind, type(None))
        assert type(climb.start) is expected
        assert attack.threat.epsilon == 8 / 255


def test_an_attack_of_the_suite_counts_for_more_than_a_rung_of_its_name():
    suite = expanded("+suite.attacks.pgd_cls_8.steps=3")
    assert suite.attacks.pgd_cls_8 == {"steps": 3}


def test_other_rungs_are_one_override():
    suite = expanded("suite.ladder.step_sizes=[1/255]", "suite.ladder.steps=7", "~suite.ladder.starts.best")
    assert [name for name in suite.attacks if name.startswith("pgd_cls")] == ["pgd_cls_1", "pgd_cls_random"]
    assert suite.attacks.pgd_cls_1.steps == 7


def test_a_suite_without_a_ladder_stays_as_it_is():
    suite = composed("evaluate", ["suite=quick"]).suite
    assert without_ladder(suite) is suite


def test_what_has_no_step_size_is_named():
    suite = OmegaConf.create(plain(composed("evaluate", ["suite=ladder"]).suite))
    suite.ladder.attacks = {"square": {"_target_": "robustdet.attacks.Square", "queries": 3}}
    with pytest.raises(ValueError, match=r"suite\.ladder\.attacks\.square has no step size: it needs step_size or gam"):
        without_ladder(suite)


@pytest.mark.parametrize(("size", "name"), [("8/255", "8"), ("0.25/255", "0_25"), (0.5, "0_5")])
def test_names_say_the_step_size(size, name):
    assert in_levels(size) == name
