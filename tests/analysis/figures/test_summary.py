import numpy as np
import pytest

from robustdet.analysis.figures.confidence import confidences
from robustdet.analysis.figures.observation import observe, scores
from robustdet.analysis.figures.routing import routed, separations
from robustdet.analysis.figures.summary import Summary, overview


def test_the_numbers_are_those_of_the_single_analyses(build_study, pgd):
    study = build_study("tiny_ssd", "tiny_robust_ssd")
    observations = observe(study, {"A_cls": pgd}, None, "test")
    rows = {(row.detector, row.attack): row for row in overview(study, observations, 0.2)}
    assert list(rows) == [(d, a) for d in ("tiny_ssd", "tiny_robust_ssd") for a in ("clean", "A_cls")]
    for (detector, attack), row in rows.items():
        seen = [o for o in observations if (o.detector, o.attack) == (detector, attack)]
        boxes = confidences(seen, 0.2)
        assert row.map == scores(seen, study.metric).headline.mean
        assert (row.boxes, row.score) == (len(boxes), np.median([box.score for box in boxes]))
        assert row.right == np.mean([box.right for box in boxes])
        assert row.classification == np.median([o.classification for o in seen[:4]])
        apart = separations(routed(observations)).get((detector, attack))
        assert row.separation == apart
        assert (apart is None) == (detector == "tiny_ssd")


@pytest.mark.parametrize("names", [["tiny_ssd"], ["tiny_ssd", "tiny_robust_ssd"]], ids=["one", "two"])
def test_one_page(build_study, pgd, names):
    findings = Summary({"A_cls": pgd}, 0.9, 3)(build_study(*names))
    assert len(findings.rows) == 2 * len(names)
    assert findings.notes[0].startswith("tiny_ssd: mAP clean ")
    findings.figure.draw_without_rendering()
    pictures = [axes for block in findings.figure.subfigs for axes in block.axes if axes.images]
    assert len(pictures) == 2 * len(names)
    legends = [
        [text.get_text() for text in of.get_texts()] for block in findings.figure.subfigs for of in block.legends
    ]
    assert legends == ([[f"kernel {k}" for k in range(4)]] if "tiny_robust_ssd" in names else [])


def test_no_box_above_the_threshold_is_no_trouble(build_study, pgd):
    findings = Summary({"A_cls": pgd}, 0.999999, 3)(build_study())
    assert {(row.boxes, row.score, row.right) for row in findings.rows} == {(0, None, None)}
