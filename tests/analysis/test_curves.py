from __future__ import annotations

from pathlib import Path

import pytest

from robustdet.analysis.report.axis import around
from robustdet.analysis.report.curves import FRAME, POINTS, curves, read, thinned
from robustdet.analysis.report.findings import Trained

METRICS = """epoch,lr,step,train/loss,val/AP50_attacked,val/AP50_clean
,0.1,19,,,
0,,19,6.0,,
0,,39,3.0,,
0,,39,,0.25,0.75
1,,59,nan,,
1,,59,1.5,0.5,0.5
1,,7"""


@pytest.fixture
def run(tmp_path: Path) -> Trained:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "metrics.csv").write_text(METRICS, encoding="utf-8")
    return Trained(tmp_path, "shapes_std", 60, False, {})


def test_values_are_read_by_updates_and_what_is_no_number_is_passed_over(run: Trained):
    file = run.folder / "csv" / "metrics.csv"
    assert read(file, {"train/loss": "loss"}) == {"loss": [(20, 6), (40, 3), (60, 1.5)]}
    assert read(file, {"val/AP50_clean": "clean", "val/none": "none"}) == {"clean": [(40, 0.75), (60, 0.5)]}


def test_a_run_has_a_panel_of_its_loss_and_one_of_its_precision(run: Trained):
    (one,) = curves([run])
    loss, precision = one.panels
    assert [line.name for line in precision.lines] == ["clean", "attacked"]
    assert loss.spoken == "loss from 6 after 20 updates to 1.5 after 60"
    assert precision.spoken.endswith("attacked from 25 after 40 updates to 50 after 60")
    assert [(tick.text, tick.at) for tick in precision.y_ticks] == [
        ("0", FRAME.bottom),
        ("25", pytest.approx(FRAME.bottom + (FRAME.top - FRAME.bottom) / 4, abs=0.1)),
        ("50", pytest.approx((FRAME.top + FRAME.bottom) / 2, abs=0.1)),
        ("75", pytest.approx(FRAME.bottom + (FRAME.top - FRAME.bottom) * 3 / 4, abs=0.1)),
        ("100", FRAME.top),
    ]
    (_, half) = dict(zip("ab", precision.lines[0].points, strict=True))["b"]
    assert half == pytest.approx((FRAME.top + FRAME.bottom) / 2, abs=0.1)
    for panel in one.panels:
        for line in panel.lines:
            assert all(FRAME.left <= x <= FRAME.right and FRAME.top <= y <= FRAME.bottom for x, y in line.points)
            assert line.points[-1][0] == precision.lines[0].points[-1][0]  # all end with the last update


def test_a_run_without_metrics_has_no_curves(tmp_path: Path, run: Trained):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "csv").mkdir(parents=True)
    (elsewhere / "csv" / "metrics.csv").write_text("epoch,step\n0,19\n", encoding="utf-8")
    without = [Trained(folder, "x", 1, False, {}) for folder in (elsewhere, tmp_path / "nowhere")]
    assert [one.run for one in curves([*without, run])] == [run]


def test_a_long_curve_is_thinned_to_means():
    series = [(float(update), float(update % 2)) for update in range(10 * POINTS)]
    thin = thinned(series)
    assert len(thin) == POINTS
    assert thin[0] == (4.5, 0.5)
    assert thinned(series[:7]) == series[:7]


@pytest.mark.parametrize("values", [[0.0, 0.3], [0.0, 5000.0], [1.0, 40000.0], [0.0, 7.3]])
def test_an_axis_begins_and_ends_on_round_numbers_around_its_values(values: list[float]):
    axis = around(values, 10, 110, margin=0)
    assert axis.low <= min(values) < max(values) <= axis.high
    assert (axis.ticks[0].at, axis.ticks[-1].at) == (10, 110)
    assert 2 <= len(axis.ticks) <= 9
    assert [float(tick.text) for tick in axis.ticks] == pytest.approx(
        [axis.low + k * axis.step for k in range(len(axis.ticks))]
    )
