from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from robustdet.evaluation.pipeline import SuiteEvaluator, declared_epsilon
from robustdet.types import Attack
from tests.evaluation.quadrants import QuadrantDetector, RoutedQuadrantDetector, quadrant_batches

CONF = Path(__file__).parents[2] / "conf"
SUITES = sorted(path.stem for path in (CONF / "suite").glob("*.yaml"))


def compose(name, *overrides, protocol="paper"):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(overrides=[f"+suite={name}", f"+protocol={protocol}", *overrides]).suite


@pytest.mark.parametrize("protocol", ["paper", "authors"])
@pytest.mark.parametrize("name", SUITES)
def test_every_suite_composes_and_runs_on_a_detector(name, protocol, tmp_path):
    suite = compose(name, protocol=protocol)
    attacks = hydra.utils.instantiate(suite.attacks, _convert_="all")
    assert suite.name == name
    assert all(isinstance(attack, Attack) for key, attack in attacks.items() if key != "clean")
    fields = OmegaConf.to_container(suite.attacks, resolve=True)
    evaluator = SuiteEvaluator(attacks, fields, tmp_path, {})
    assert next(iter(evaluator.attacks)) == "clean"
    (batch,) = quadrant_batches(2, 2)
    detector = RoutedQuadrantDetector() if name == "adaptive" else QuadrantDetector()
    assert evaluator.evaluate_batch(detector.eval(), batch) == 2 * len(attacks)


def test_what_the_suites_promise():
    paper, quick, reliable = (compose(name) for name in ("paper", "quick", "reliable"))
    assert set(paper.attacks) == {"clean", "pgd_cls", "pgd_loc", "cwa", "dag"}
    assert (paper.attacks.pgd_cls.steps, paper.attacks.pgd_cls.step_size) == (20, "8/255")
    assert (paper.tabled, quick.tabled, quick.attacks.pgd_cls.steps) == (True, False, 5)
    assert (reliable.attacks.cwa.steps, reliable.attacks.cwa.random_start) == (50, True)
    for suite in (reliable, compose("adaptive")):
        attacks = hydra.utils.instantiate(suite.attacks, _convert_="all")
        assert {declared_epsilon(attack) for name, attack in attacks.items() if name != "clean"} == {8 / 255}


def test_one_field_of_one_attack_can_be_changed():
    suite = compose("paper", "suite.attacks.pgd_cls.steps=3")
    assert (suite.attacks.pgd_cls.steps, suite.attacks.pgd_loc.steps) == (3, 20)
