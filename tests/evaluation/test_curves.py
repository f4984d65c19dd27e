"""Curves of what a detection is worth, against the ranking that they come from."""

from __future__ import annotations

import numpy as np
import pytest

from robustdet.evaluation.average_precision import Ranking
from robustdet.evaluation.curves import HIGH, LOW, STEP, WIDTH, measured_curves
from robustdet.evaluation.worst_case import FirstOrder


def ranking(label: int = 1) -> FirstOrder:
    """Hit, false alarm, hit, false alarm of one class with three objects."""
    scores = np.array([0.9, 0.7, 0.5, 0.2])
    hits = np.array([True, False, True, False])
    return FirstOrder(Ranking(scores, np.full(4, label), hits, np.arange(4)), np.full(3, label))


def slowly(effects: FirstOrder, label: int, log_odds: float, hit: bool) -> float:
    """The mean effect of scores around these log-odds, weighted by a logistic density."""
    near = np.arange(-4, 4, 0.001) + log_odds
    weights = 1 / (4 * WIDTH * np.cosh((near - log_odds) / (2 * WIDTH)) ** 2)
    of_hit, of_false_alarm = effects.of(label, 1 / (1 + np.exp(-near)))
    return float(((of_hit if hit else of_false_alarm) * weights).sum() / weights.sum())


@pytest.mark.parametrize("hit", [False, True])
def test_are_the_smoothed_effects(hit: bool):
    effects = ranking()
    curves = measured_curves(effects)
    for log_odds in (-4.0, -1.0, 0.0, 1.5, 3.0):
        column = round((log_odds - LOW) / STEP)
        measured = curves.effects[int(hit), 0, column].item()
        assert measured == pytest.approx(slowly(effects, 1, log_odds, hit), abs=0.01)
    assert (curves.low, curves.high) == (LOW, pytest.approx(HIGH))


def test_a_hit_is_worth_more_the_higher_it_ranks_and_a_false_alarm_costs_more():
    false_alarms, hits = measured_curves(ranking()).effects[:, 0]
    assert (hits.diff() >= -1e-6).all()
    assert (false_alarms.diff() <= 1e-6).all()
    (highest,), _ = ranking().of(1, np.array([0.999]))
    assert hits[-1].item() == pytest.approx(highest)
    assert false_alarms[-1] < 0


def test_classes_without_objects_have_no_effect():
    curves = measured_curves(ranking(label=3))
    assert curves.effects.shape[:2] == (2, 3)
    assert not curves.effects[:, :2].any()
    assert curves.effects[:, 2].any(dim=1).all()


def test_a_data_set_without_objects_gives_curves_of_zeros():
    nothing = Ranking(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.int64))
    assert not measured_curves(FirstOrder(nothing, np.zeros(0, np.int64))).effects.any()
