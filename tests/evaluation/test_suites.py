from pathlib import Path
from typing import get_args

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from robustdet.attacks.threat import pixel_fraction
from robustdet.attacks.universal_patch import png_of
from robustdet.cli.ladder import without_ladder
from robustdet.evaluation.attacked import declared_epsilon
from robustdet.evaluation.comparisons import Entry, ladders
from robustdet.evaluation.pipeline import SuiteEvaluator
from robustdet.evaluation.worst_case import shared_radius
from robustdet.types import Attack, Knowledge
from tests.evaluation.quadrants import QuadrantDetector, RoutedQuadrantDetector, quadrant_batches

CONF = Path(__file__).parents[2] / "conf"
SUITES = sorted(path.stem for path in (CONF / "suite").glob("*.yaml"))

DEAR = {"reliable", "ladder", "strongest"}


def compose(name, *overrides, protocol="paper"):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        suite = hydra.compose(overrides=[f"+suite={name}", f"+protocol={protocol}", *overrides]).suite
    return without_ladder(suite)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        *(pytest.param(name, "paper", marks=[pytest.mark.slow] if name in DEAR else []) for name in SUITES),
        ("paper", "authors"),  # the one that asks the protocol
    ],
)
def test_every_suite_composes_and_runs_on_a_detector(name, protocol, tmp_path):
    suite = compose(name, protocol=protocol)
    if "transfer" in suite.attacks:
        suite.attacks.transfer.surrogate = {"_target_": "tests.evaluation.quadrants.QuadrantDetector"}
    if "universal" in suite.attacks:
        (tmp_path / "patch.png").write_bytes(png_of(torch.rand(3, 4, 4)))
        suite.attacks.universal.patch_file = str(tmp_path / "patch.png")
    shorten(suite.attacks)
    attacks = hydra.utils.instantiate(suite.attacks, _convert_="all")
    assert suite.name == name
    assert all(isinstance(attack, Attack) for key, attack in attacks.items() if key != "clean")
    fields = OmegaConf.to_container(suite.attacks, resolve=True)
    evaluator = SuiteEvaluator(attacks, fields, tmp_path, {})
    assert next(iter(evaluator.attacks)) == "clean"
    (batch,) = quadrant_batches(2, 2)
    asked = {attack.knowledge for attack in attacks.values() if attack}
    detector = RoutedQuadrantDetector() if "discriminator" in asked else QuadrantDetector()
    assert evaluator.evaluate_batch(detector.eval(), batch) == 2 * len(attacks)


def shorten(node):
    """Cut steps and queries; how many there are is the yaml's affair, that they run is the test's."""
    for key, value in node.items():
        if key in ("steps", "queries"):
            node[key] = min(value, 3)
        elif isinstance(value, DictConfig):
            shorten(value)


def test_what_the_suites_promise():
    paper, quick, reliable = (compose(name) for name in ("paper", "quick", "reliable"))
    assert set(paper.attacks) == {"clean", "pgd_cls", "pgd_loc", "cwa", "dag"}
    assert (paper.attacks.pgd_cls.steps, paper.attacks.pgd_cls.step_size) == (20, "8/255")
    assert (paper.tabled, quick.tabled, quick.attacks.pgd_cls.steps) == (True, False, 5)
    assert (reliable.attacks.cwa_2.steps, reliable.attacks.cwa_random.start._target_) == (50, "robustdet.attacks.Noise")
    del reliable.attacks.transfer  # needs a surrogate
    attacks = hydra.utils.instantiate(reliable.attacks, _convert_="all")
    epsilons = {name: declared_epsilon(attack) for name, attack in attacks.items() if name != "clean"}
    assert shared_radius(epsilons) == 8 / 255
    assert {name for name, epsilon in epsilons.items() if epsilon != 8 / 255} == {
        *(f"total_eps_{epsilon}" for epsilon in (0, 2, 4, 16, 64, 255)),
        *("noise_gaussian", "noise_l2", "jpeg"),
    }
    assert {attack.knowledge for attack in attacks.values() if attack} == set(get_args(Knowledge))
    everything = list(reliable.attacks.values())
    assert all(
        attack in everything for name in ("sanity", "adaptive", "ladder") for attack in compose(name).attacks.values()
    )
    assert sum(everything.count(attack) for attack in everything) == len(everything)  # nothing twice


def test_the_rows_of_sanity_differ_in_one_field():
    suite = compose("reliable")
    settings = OmegaConf.to_container(suite.attacks, resolve=True)
    entries = [Entry(name, fields, "gradients", 0.0, 0.0, {}, {}) for name, fields in settings.items() if fields]

    def rows(key, read):
        return [[entry.name for entry in row] for row in ladders(entries, key, read)]

    assert sorted(rows("steps", int)) == sorted(
        [["total_steps_1", "total_steps_10", "pgd_total_2", "total_steps_100", "total_steps_200"]]
        + [[f"{task}_step_{size}", f"pgd_{task}_{size}"] for task in ("cls", "loc") for size in (2, 8)]
    )
    assert rows("threat.epsilon", pixel_fraction) == [[f"total_eps_{e}" for e in (0, 2, 4, 8, 16, 64, 255)]]
    climbs = ["pgd_cls", "pgd_loc", "pgd_total", "cwa", "tog_vanishing", "tog_fabrication", "tog_mislabelling"]
    assert rows("step_size", pixel_fraction) == [
        *([f"{name}_{rung}" for rung in ("0_25", "0_5", "2", "8")] for name in climbs),
        ["cls_step_2", "cls_step_8"],
        ["loc_step_2", "loc_step_8"],
    ]


@pytest.mark.parametrize("name", ["adaptive", "reliable"])
def test_adaptive_attacks_have_plain_rivals_of_equal_means(name):
    """So that finer steps or more tries alone cannot beat the discriminator's defence."""
    attacks = OmegaConf.to_container(compose(name).attacks, resolve=True)
    fools = attacks["aid_fool_worst"]["attacks"].values()
    assert all(fields["attack"]["objective"]["weight"] > 0 for fields in fools)  # 0 would be a plain attack

    def means(pgd):
        return pgd["steps"], pgd["step_size"]

    total = attacks["pgd_total_2"]["objective"]
    plain = {
        means(fields)
        for fields in attacks.values()
        if fields and fields.get("objective") == total and "step_size" in fields
    }
    adaptive = [fields for fields in (*attacks.values(), *fools) if fields and "routing" in fields]
    assert len(adaptive) >= 11
    by_loss = [fields["attack"] for fields in adaptive if "Steering" not in str(fields)]
    assert {means(fields) for fields in by_loss if "start" not in fields} <= plain
    assert len(attacks["apgd_total"]["starts"]) >= len(fools)
    # what steers outranks: its rival starts as finely, and as often, on the detector as it is
    assert (attacks["outrank_fine"]["steps"], attacks["outrank_fine"]["first_step"]) == (50, "0.5/255")


def test_the_steering_attacks_are_those_of_each_kernel():
    attacks = OmegaConf.to_container(compose("adaptive").attacks, resolve=True)
    for name in ("aid_steer", "aid_steer_first"):
        climbs = [attacks[f"{name}_{kernel}"]["attack"] for kernel in range(4)]
        assert [climb["objective"]["kernel"] for climb in climbs] == [0, 1, 2, 3]
        while all("start" in climb for climb in climbs):
            climbs = [climb["start"] for climb in climbs]
            assert [climb["objective"]["kernel"] for climb in climbs] == [0, 1, 2, 3]
    assert attacks["aid_steer_first_2"]["attack"]["start"]["start"]["objective"]["weight"] == 100


def test_one_field_of_one_attack_can_be_changed():
    suite = compose("paper", "suite.attacks.pgd_cls.steps=3")
    assert (suite.attacks.pgd_cls.steps, suite.attacks.pgd_loc.steps) == (3, 20)
