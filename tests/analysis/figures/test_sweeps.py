from functools import partial

import pytest

from robustdet.analysis.figures.epsilon_sweep import EpsilonSweep
from robustdet.analysis.figures.observation import observe, scores
from robustdet.analysis.figures.pgd_steps import PGDSteps
from robustdet.analysis.figures.sweep import SweepPoint, helped_by_more
from robustdet.attacks import PGD, LInf
from robustdet.attacks.objectives import a_cls, a_loc


def average(study, attacks, name):
    return scores([o for o in observe(study, attacks, 4, "test") if o.attack == name], study.metric).headline.mean


def test_every_number_of_steps_is_an_attack_of_its_own(build_study):
    study = build_study()
    make = {
        name: partial(PGD, objective, LInf("16/255"), step_size="8/255")
        for name, objective in (("A_cls", a_cls), ("A_loc", a_loc))
    }
    rows = PGDSteps(make, [1, 3], 4)(study).rows
    assert [(row.attack, row.value) for row in rows] == [(a, v) for a in ("A_cls", "A_loc") for v in (0, 1, 3)]
    for row in rows:
        if row.value:
            assert row.map == average(study, {"x": make[row.attack](steps=int(row.value))}, "x")
        else:
            assert row.map == average(study, {}, "clean")


def test_every_radius_is_an_attack_of_its_own(build_study):
    study = build_study()
    sweep = EpsilonSweep({"A_cls": partial(PGD, a_cls, steps=2)}, ["4/255", "32/255"], 0.25, 4)
    findings = sweep(study)
    assert [row.value for row in findings.rows] == [0, 4, 32]
    expected = PGD(a_cls, LInf("32/255"), steps=2, step_size="8/255")
    assert findings.rows[-1].map == average(study, {"x": expected}, "x")
    (line,) = findings.figure.axes[0].lines
    assert list(line.get_xdata()) == [0, 4, 32]
    assert list(line.get_ydata()) == [100 * row.map for row in findings.rows]


def test_a_detector_that_more_attack_helps_is_named():
    def points(*averages):
        return [SweepPoint("A", "A_cls", float(step), average) for step, average in enumerate(averages)]

    assert helped_by_more(points(0.8, 0.5, 0.51, 0.1), "steps") == []
    (note,) = helped_by_more(points(0.8, 0.2, 0.3, 0.1), "steps")
    assert note == "A, A_cls: mAP 30.0 at steps 2 but 20.0 at 1: more should never help the defender"


def test_no_radius_outside_the_pixel_range():
    with pytest.raises(ValueError, match=r"fraction of the pixel range in \[0, 1\].*got 8"):
        EpsilonSweep({}, [8], 0.25, 4)
