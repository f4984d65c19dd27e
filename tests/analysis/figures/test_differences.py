"""Differences against AP of the very images that each resample has, computed the slow way."""

from __future__ import annotations

import numpy as np
import pytest

from robustdet.analysis.figures.differences import Difference, Differences, differences, sentence
from robustdet.errors import InputError
from robustdet.evaluation.average_precision import voc_average_precision
from robustdet.evaluation.chance import RESAMPLES
from robustdet.types import Detections, Target
from tests.analysis.figures.conftest import seen
from tests.evaluation import scenes

Scene = dict[str, Detections]


def pair_of_scenes(count: int = 12) -> tuple[Scene, Scene, dict[str, Target]]:
    found, targets = scenes.scene(count, 2, seed=3)
    other, _ = scenes.scene(count, 2, seed=5)
    return found, dict(zip(found, other.values(), strict=True)), targets


def test_both_are_measured_on_the_same_resamples():
    found, other, targets = pair_of_scenes()
    names = list(targets)
    rows = differences(
        seen(name, detector=label, target=targets[name], detections=of[name])
        for label, of in (("one", found), ("two", other))
        for name in names
    )
    drawn = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), RESAMPLES)

    def slow(of: Scene, times: np.ndarray) -> float:
        copies = [(f"{name}-{n}", name) for name, count in zip(names, times, strict=True) for n in range(count)]
        return voc_average_precision(
            {copy: of[name] for copy, name in copies}, {copy: targets[name] for copy, name in copies}, 2, rule="area"
        ).mean

    by_draw = [100 * (slow(found, times) - slow(other, times)) for times in drawn]
    whole = 100 * (slow(found, np.ones(12, int)) - slow(other, np.ones(12, int)))
    half = 1.96 * np.std(by_draw, ddof=1)
    assert [(row.detector, row.other, row.attack) for row in rows] == [("one", "two", "clean")]
    assert (rows[0].difference, rows[0].low, rows[0].high) == pytest.approx(
        (whole, whole - half, whole + half), abs=1e-3
    )


def test_what_both_find_hard_does_not_blur_the_difference():
    """Two detectors that see alike differ by 0 for certain, however much their AP depends on the images."""
    found, _, targets = pair_of_scenes()
    rows = differences(
        seen(name, detector=label, target=targets[name], detections=found[name])
        for label in ("one", "two")
        for name in targets
    )
    assert (rows[0].difference, rows[0].low, rows[0].high) == (0, 0, 0)


def test_each_is_compared_with_those_that_come_after_it(build_study, pgd):
    findings = Differences({"A_cls": pgd}, 4)(build_study("tiny_ssd", "tiny_robust_ssd", "tiny_robust_ssd_cfr"))
    pairs = [
        ("tiny_ssd", "tiny_robust_ssd"),
        ("tiny_ssd", "tiny_robust_ssd_cfr"),
        ("tiny_robust_ssd", "tiny_robust_ssd_cfr"),
    ]
    assert [(row.detector, row.other) for row in findings.rows[::2]] == pairs
    assert [row.attack for row in findings.rows] == ["clean", "A_cls"] * 3
    assert [panel.get_title() for panel in findings.figure.axes] == [f"{one} - {other}" for one, other in pairs]
    first = findings.rows[0]
    assert list(findings.figure.axes[0].lines[1].get_xdata()) == [first.low, first.high]
    assert findings.notes[0] == sentence(first)


@pytest.mark.parametrize(
    ("low", "high", "end"),
    [
        (-0.4, 1.4, "[-0.4, +1.4], which other images might turn round"),
        (0.2, 0.8, "[+0.2, +0.8]"),
    ],
)
def test_a_difference_that_may_be_none_is_said_to_be_so(low, high, end):
    said = sentence(Difference("a", "b", "A_cls", 0.5, low, high))
    assert said.startswith("a - b, A_cls: +0.5 points ")
    assert said.endswith(end)


def test_few_images_and_draws_without_objects_are_told_or_left_out(build_study, pgd):
    notes = Differences({}, 4)(build_study("tiny_ssd", "tiny_robust_ssd")).notes
    assert notes[-1] == "4 images are too few: these intervals are too narrow, look at 50 images or more"
    found, other, targets = pair_of_scenes()
    names = list(targets)[:3]
    empty = {name: scenes.target(name, [], []) for name in names[1:]}  # two of three: some draws have no object
    rows = differences(
        seen(name, detector=label, target=empty.get(name, targets[name]), detections=of[name])
        for label, of in (("one", found), ("two", other))
        for name in names
    )
    assert np.isfinite([rows[0].difference, rows[0].low, rows[0].high]).all()


def test_images_without_an_attack_have_their_name_for_themselves(build_study, pgd):
    with pytest.raises(InputError, match=r"analysis\.attacks\.clean: images without an attack are called so"):
        Differences({"clean": pgd}, 4)(build_study("tiny_ssd", "tiny_robust_ssd"))
