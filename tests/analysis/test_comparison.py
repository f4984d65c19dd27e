"""What a report opens with: one chart, and what it says in sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustdet.analysis.report.comparison import Comparison, compare
from robustdet.analysis.report.findings import find
from robustdet.analysis.report.groups import group
from robustdet.analysis.table import RowSpec, TableSpec
from tests.analysis.evaluations import FLAG, write

SPEC = TableSpec(
    name="table",
    title="a table",
    suite="paper",
    protocol="paper",
    rule="voc07",
    columns={"clean": "Clean", "pgd_cls": "A_cls", "cwa": "CWA"},
    rows=[RowSpec("SSD", "voc_std"), RowSpec("MTD", "voc_mtd"), RowSpec("RobustDet*", "voc_cfr")],
)


def compared(folder: Path) -> Comparison:
    found = compare(group(find([folder]).evaluated, [SPEC]), [SPEC])
    assert found is not None
    return found


def seeds(folder: Path, experiment: str, attack: str, *values: float, **changes: object) -> None:
    for seed, ap in enumerate(values):
        run = folder / experiment / str(seed)
        weights = f"{experiment}{seed}".ljust(64, "0")
        write(
            run, attack, ap, experiment=experiment, training_seed=seed, checkpoint_sha256=weights,
            training_recipe=experiment, **changes,
        )  # fmt: skip


def bars(chart: Comparison, experiment: str) -> dict[str, str]:
    return {bar.kind.name: bar.text for bar in chart.rows[experiment]}


def test_each_detector_has_clean_the_papers_lowest_and_the_worst_case(tmp_path: Path):
    for experiment, (clean, cls, cwa, worst) in {
        "voc_cfr": (0.7, 0.4, 0.3, 0.1),
        "voc_std": (0.8, 0.05, 0.1, 0.0),
    }.items():
        for attack, ap in {"clean": clean, "pgd_cls": cls, "cwa": cwa, "worst_case": worst, "tog": 0.01}.items():
            seeds(tmp_path, experiment, attack, ap, **({"flags": [FLAG]} if attack == "cwa" else {}))
    chart = compared(tmp_path)
    assert chart.setting == "AP (voc07) on VOC2007 test, protocol=paper"
    assert list(chart.rows) == ["voc_std", "voc_cfr"]  # in the table's order
    assert bars(chart, "voc_std") == {"clean": "80.0", "paper": "5.0 A_cls", "worst": "0.0"}
    assert bars(chart, "voc_cfr") == {"clean": "70.0", "paper": "30.0 ⚑ CWA", "worst": "10.0"}
    assert chart.conclusions == [
        "Under the paper's attacks, voc_cfr keeps most: 30.0 of its 70.0 points of clean AP, least under CWA; "
        "next is voc_std with 5.0.",
        "In the worst case, voc_cfr keeps most: 10.0 of its 70.0 points of clean AP; next is voc_std with 0.0.",
    ]
    assert chart.cautions == [
        "One or two training runs each, so no interval: a difference of a few points may be chance.",
        "⚑ A check found reason to doubt this number; see the flags.",
    ]
    assert chart.spoken.startswith("voc_std: on clean images 80.0, under the paper's attacks 5.0 A_cls, in the worst")


def test_several_seeds_give_an_interval_and_what_lies_within_it_is_said(tmp_path: Path):
    for experiment, values in {
        "voc_cfr": (0.40, 0.44, 0.45),
        "voc_mtd": (0.38, 0.42, 0.44),
        "voc_std": (0.01,) * 3,
    }.items():
        seeds(tmp_path, experiment, "clean", 0.7, 0.7, 0.7)
        seeds(tmp_path, experiment, "pgd_cls", *values)
    chart = compared(tmp_path)
    assert bars(chart, "voc_cfr") == {"clean": "70.0 ± 0.0", "paper": "43.0 ± 6.6"}  # 6.6: see test_table.py
    assert chart.conclusions == [
        "Under the paper's attacks, voc_cfr keeps most: 43.0 of its 70.0 points of clean AP; "
        "next is voc_mtd with 41.3, within the intervals of both."
    ]
    assert chart.cautions == []
    write(tmp_path / "one", "pgd_cls", 0.1, experiment="mine", checkpoint_sha256="e" * 64)
    (caution,) = compared(tmp_path).cautions
    assert caution.startswith("One or two training runs of mine, so no interval")
    seeds(tmp_path, "voc_mtd", "pgd_cls", 0.05, 0.05, 0.05, date="2027-01-01")
    assert "within" not in compared(tmp_path).conclusions[0]


def test_a_bar_is_of_one_suite_the_worst_case_of_the_hardest(tmp_path: Path):
    for experiment in ("voc_cfr", "voc_std"):
        seeds(tmp_path, experiment, "clean", 0.7)
        seeds(tmp_path, experiment, "pgd_cls", 0.4)
        seeds(tmp_path, experiment, "worst_case", 0.3)
        seeds(tmp_path, experiment, "clean", 0.7, suite="strongest")
        seeds(tmp_path, experiment, "worst_case", 0.1, suite="strongest")
    seeds(tmp_path, "voc_cfr", "pgd_cls", 0.2, suite="reliable")  # lower, but of one of the two
    seeds(tmp_path, "voc_cfr", "worst_case", 0.05, suite="reliable")
    chart = compared(tmp_path)
    assert [kind.text.rpartition(" (")[2] for kind in chart.kinds] == [
        "clean images",
        "suite=paper)",
        "suite=strongest)",
    ]
    for experiment in chart.rows:
        assert bars(chart, experiment) == {"clean": "70.0", "paper": "40.0", "worst": "10.0"}


def test_the_papers_attacks_are_those_of_its_suite_and_clean_images_of_any(tmp_path: Path):
    seeds(tmp_path, "voc_cfr", "clean", 0.7, num_images=9)
    seeds(tmp_path, "voc_cfr", "pgd_cls", 0.4, num_images=9)
    for experiment in ("voc_cfr", "voc_std"):
        seeds(tmp_path, experiment, "clean", 0.8, suite="reliable")
        seeds(tmp_path, experiment, "pgd_cls", 0.1, suite="reliable")
    chart = compared(tmp_path)
    assert bars(chart, "voc_cfr") == {"clean": "70.0", "paper": "40.0"}
    assert bars(chart, "voc_std") == {"clean": "80.0"}
    assert "voc_cfr: on 9 of 4952 images." in chart.cautions
    seeds(tmp_path, "voc_cfr", "clean", 0.7, date="2027-01-01")  # of the whole split: the others are not shown
    seeds(tmp_path, "voc_cfr", "pgd_cls", 0.4, date="2027-01-01")
    seeds(tmp_path, "voc_cfr", "cwa", 0.4, num_images=9, suite="reliable")
    assert not any("9 of 4952" in caution for caution in compared(tmp_path).cautions)


def test_attacks_that_not_all_have_do_not_compare(tmp_path: Path):
    for experiment in ("voc_cfr", "voc_std"):
        seeds(tmp_path, experiment, "pgd_cls", 0.4)
    seeds(tmp_path, "voc_cfr", "cwa", 0.1)
    assert bars(compared(tmp_path), "voc_cfr") == {"paper": "40.0"}


def test_what_is_not_for_comparison_is_shown_where_there_is_nothing_else(tmp_path: Path):
    seeds(tmp_path, "voc_std", "pgd_cls", 0.9, suite="quick", tabled=False, num_images=64)
    chart = compared(tmp_path)
    assert chart.conclusions == ["Under the paper's attacks, voc_std keeps 90.0."]
    assert chart.cautions == ["Not for comparison: few images or few steps.", "On 64 of 4952 images."]
    seeds(tmp_path, "voc_cfr", "pgd_cls", 0.4)
    assert list(compared(tmp_path).rows) == ["voc_cfr"]


def test_clean_images_alone_are_no_comparison(tmp_path: Path):
    seeds(tmp_path, "voc_std", "clean", 0.9)
    assert compare(group(find([tmp_path]).evaluated, [SPEC]), [SPEC]) is None


@pytest.mark.parametrize("others", [0, 1])
def test_one_detector_is_not_said_to_keep_most(tmp_path: Path, others: int):
    for experiment in ["voc_cfr", *["voc_std"] * others]:
        seeds(tmp_path, experiment, "worst_case", 0.4)
    assert ("keeps most" in compared(tmp_path).conclusions[0]) == bool(others)
