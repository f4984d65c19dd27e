"""The bootstrap against AP of data sets that hold images several times; the binomial bound against its sum."""

from math import comb

import numpy as np
import pytest

from robustdet.evaluation.average_precision import match_detections, voc_average_precision
from robustdet.evaluation.chance import CHANCE, DEVIATIONS, RESAMPLES, less_than_chance, more_than_chance, resampled_map
from tests.evaluation.scenes import scene


def test_a_resample_is_the_data_set_with_its_images_as_often_as_they_were_drawn():
    found, targets = scene(12, 3, seed=2)
    names = sorted(targets)
    ours = resampled_map([match_detections(found[name], targets[name]) for name in names], seed=4)
    drawn = np.random.default_rng(4).multinomial(12, np.full(12, 1 / 12), RESAMPLES)
    assert ours.shape == (RESAMPLES + 1,)
    for value, times in zip(ours[:40], [np.ones(12, int), *drawn], strict=False):
        copies = {f"{name}-{n}": name for name, count in zip(names, times, strict=True) for n in range(count)}
        slow = voc_average_precision(
            {copy: found[name] for copy, name in copies.items()},
            {copy: targets[name] for copy, name in copies.items()},
            3,
            rule="area",
        )
        assert value == pytest.approx(slow.mean, abs=1e-5)


def test_no_object_no_map():
    found, targets = scene(3, 2, seed=0, most_objects=0)
    assert np.isnan(resampled_map([match_detections(found[name], targets[name]) for name in targets])).all()


def test_the_deviation_is_that_of_drawing_other_images():
    def value(seed):
        found, targets = scene(60, 2, seed=seed)
        return resampled_map([match_detections(found[name], targets[name]) for name in targets])

    each = [value(seed) for seed in range(20)]
    true = np.std([of_seed[0] for of_seed in each], ddof=1)
    assert np.mean([of_seed[1:].std() for of_seed in each]) == pytest.approx(true, rel=0.4)


@pytest.mark.parametrize(("trials", "share"), [(1, 0.99), (12, 0.99), (60, 0.99), (400, 0.95), (60, 0.05)])
def test_binomial_bounds(trials, share):
    def chance_of(successes):
        return comb(trials, successes) * share**successes * (1 - share) ** (trials - successes)

    for successes in range(trials + 1):
        assert less_than_chance(successes, trials, share) == (sum(map(chance_of, range(successes + 1))) < CHANCE)
        more = sum(map(chance_of, range(successes, trials + 1)))
        assert more_than_chance(successes, trials, share) == (more < CHANCE)


def test_one_image_of_sixty_may_be_chance_and_no_image_at_all_says_nothing():
    """The numbers that docs/flags.md names."""
    assert [less_than_chance(risen, 60, 0.99) for risen in (59, 56, 55)] == [False, False, True]
    assert [less_than_chance(risen, 12, 0.99) for risen in (11, 10, 9)] == [False, False, True]
    assert [more_than_chance(wins, 60, 0.05) for wins in (3, 8, 9, 10)] == [False, False, False, True]
    assert 3.0 < DEVIATIONS < 3.1
    assert not less_than_chance(0, 0, 0.99)
    assert not more_than_chance(0, 0, 0.05)
