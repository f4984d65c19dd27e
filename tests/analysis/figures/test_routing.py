from functools import partial

import numpy as np
import pytest

from robustdet.analysis.figures.routing import RoutedImage, RoutingStudy, separations, shares
from robustdet.attacks import PGD, LInf
from robustdet.attacks.objectives import a_cls


def routed(attack, *vectors):
    return [
        RoutedImage("A", attack, f"image{i}", kernel, pi)
        for i, vector in enumerate(vectors)
        for kernel, pi in enumerate(vector)
    ]


def divergence(p, q):
    """Jensen-Shannon, base 2."""
    m = (np.array(p) + q) / 2
    return sum(0.5 * a * np.log2(a / b) for v in (p, q) for a, b in zip(v, m, strict=True) if a > 0)


def test_separation_from_clean_images():
    rows = [
        *routed("clean", [0.9, 0.1], [0.7, 0.3]),
        *routed("A_cls", [0.1, 0.9], [0.3, 0.7]),
        *routed("noise", [1.0, 0.0], [0.6, 0.4]),
    ]
    found = separations(rows)
    assert found["A", "A_cls"] == pytest.approx(divergence([0.8, 0.2], [0.2, 0.8]))
    assert found["A", "clean"] == pytest.approx(0, abs=1e-9)
    assert found["A", "noise"] == pytest.approx(0, abs=1e-9)  # the same mean
    assert separations([*routed("clean", [1.0, 0.0]), *routed("far", [0.0, 1.0])])["A", "far"] == pytest.approx(1)


def test_shares_of_one_strip():
    assert shares(routed("clean", [0.9, 0.1], [0.7, 0.3])).tolist() == [[0.9, 0.1], [0.7, 0.3]]


def test_every_step_size_is_an_attack_of_its_own(build_study, pgd):
    stepped = {"A_cls": partial(PGD, a_cls, LInf("8/255"), steps=2)}
    study = build_study("tiny_robust_ssd")
    findings = RoutingStudy({"fixed": pgd}, stepped, ["1/255", "8/255"], 3)(study)
    names = ["clean", "fixed", "A_cls, step 1/255", "A_cls, step 8/255"]
    assert list(dict.fromkeys(row.attack for row in findings.rows)) == names
    assert len(findings.rows) == len(names) * 3 * 4
    strips = [axes.get_ylabel() for axes in findings.figure.axes]
    assert strips == ["clean", "fixed", "$A_{cls}$, step 1/255", "$A_{cls}$, step 8/255"]
    model, batch = study.subjects[0].model, next(study.first(1))
    expected = model.aid(batch.images)[0].tolist()
    assert [row.pi for row in findings.rows[:4]] == pytest.approx(expected, abs=1e-5)


def test_a_detector_that_does_not_route_is_named(build_study, pgd):
    with pytest.raises(ValueError, match=r"analysis=routing .* there is none in tiny_ssd \(SSD\): only RobustDet"):
        RoutingStudy({"A_cls": pgd}, {}, [], 2)(build_study("tiny_robust_ssd", "tiny_ssd"))
