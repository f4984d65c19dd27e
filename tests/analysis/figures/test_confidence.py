import pytest

from robustdet.analysis.figures.confidence import BoxConfidence, Confidence, confidences, draw
from tests.analysis.figures.conftest import seen
from tests.evaluation import scenes


def test_boxes_above_the_threshold_with_what_they_are():
    found = scenes.detections(
        [[0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10]], [0.75, 0.5, 0.25], [1, 1, 1]
    )  # the second finds the first's object again
    assert confidences([seen("a", "A_cls", detections=found)], 0.3) == [
        BoxConfidence("one", "A_cls", "a", 0.75, True),
        BoxConfidence("one", "A_cls", "a", 0.5, False),
    ]


def test_histograms_add_up_to_a_hundred():
    rows = [BoxConfidence("one", "clean", "a", score / 100, True) for score in range(31, 100)]
    figure = draw(rows, 0.3, "text")
    (panel,) = figure.axes
    assert panel.patches[0].get_data().values.sum() == pytest.approx(100)
    assert panel.lines[0].get_xdata()[0] == 0.65


def test_the_figure_and_its_notes(build_study, pgd):
    findings = Confidence({"A_cls": pgd}, 0.2, 3)(build_study())
    assert [axes.get_title() for axes in findings.figure.axes] == ["clean", "$A_{cls}$"]
    assert all(row.score > 0.2 for row in findings.rows)
    boxes = [row for row in findings.rows if row.attack == "clean"]
    assert findings.notes[0].startswith(f"tiny_ssd, clean: {len(boxes)} boxes, median score 0.")


def test_no_box_at_all_is_an_error(build_study, pgd):
    with pytest.raises(ValueError, match=r"no detector has a box with a score above 1: lower analysis\.threshold"):
        Confidence({"A_cls": pgd}, 1.0, 2)(build_study())
