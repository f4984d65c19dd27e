"""What a row of the benchmark's table says of its bound, and what noise is."""

from __future__ import annotations

import pytest

from benchmarks.rows import Row
from benchmarks.timing import ratio


@pytest.mark.parametrize(
    ("value", "noise", "at_least", "verdict"),
    [
        (0.9, 0.0, False, "met"),
        (1.01, 0.0, False, "missed"),
        (1.01, 0.02, False, "met"),
        (1.03, 0.02, False, "missed"),
        (0.9, 0.0, True, "missed"),
        (0.99, 0.02, True, "met"),
        (None, 0.0, False, ""),
    ],
)
def test_a_bound_is_met_within_the_noise(value: float | None, noise: float, at_least: bool, verdict: str):
    row = Row("part", "title", value, bound=1.0, noise=noise, at_least=at_least)
    assert row.verdict == verdict


def test_a_row_shows_its_noise_and_what_was_not_measured():
    assert Row("part", "title", 1.013, noise=0.0214).cells()[2] == "1.01 ± 0.02 x"
    assert Row("part", "title", 1.013).cells()[2] == "1.01 x"
    assert Row("part", "title", None).cells()[2] == "not measured"


def test_the_noise_of_a_ratio_is_what_the_rounds_do_not_share():
    value, noise = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])  # a busy machine slows both
    assert (value, noise) == (2.0, 0.0)
    value, noise = ratio([0.9, 1.0, 1.1, 1.0], [1.0] * 4)
    assert value == pytest.approx(1.0)
    assert noise == pytest.approx(1.96 * 1.2533 * 0.08165 / 2, rel=1e-3)
