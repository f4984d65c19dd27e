import pytest

from robustdet.analysis.figures.attack_loss_change import AttackLossChange, LossChange, loss_changes, notes
from robustdet.analysis.figures.observation import observe
from tests.analysis.figures.conftest import seen


def test_a_change_is_attacked_less_clean_of_the_same_detector_and_image():
    rows = loss_changes(
        [
            seen("a", classification=1.0, localization=2.0),
            seen("b", classification=10.0, localization=20.0),
            seen("a", detector="two", classification=5.0),
            seen("a", "A_cls", classification=1.5, localization=1.75),
            seen("b", "A_cls", classification=9.0, localization=21.0),
            seen("a", "A_cls", detector="two", classification=5.0),
        ]
    )
    assert rows == [
        LossChange("one", "A_cls", "a", 0.5, -0.25),
        LossChange("one", "A_cls", "b", -1.0, 1.0),
        LossChange("two", "A_cls", "a", 0.0, 0.0),
    ]
    assert notes(rows)[0] == "one, A_cls: median change of L_cls -0.25 and L_loc +0.38"


def test_images_without_objects_have_no_loss_to_change():
    assert loss_changes([seen("a", positives=0), seen("a", "A_cls", positives=0)]) == []


def test_the_figure_shows_both_losses(build_study, pgd):
    study = build_study()
    findings = AttackLossChange({"A_cls": pgd}, None)(study)
    assert len(findings.rows) == 4  # the fifth image has no object
    assert [axes.get_title() for axes in findings.figure.axes] == ["$L_{cls}$", "$L_{loc}$"]
    total = sum(
        o.classification * (1 if o.attack == "A_cls" else -1) for o in observe(study, {"A_cls": pgd}, 4, "test")
    )
    assert sum(row.classification for row in findings.rows) == pytest.approx(total, rel=1e-5)
