import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from robustdet.analysis.rendering import to_csv, to_latex, to_markdown, to_rich
from robustdet.analysis.table import fill, half_interval, read_spec, summary
from robustdet.evaluation.record import Record
from tests.evaluation.records import RECORD, RUN

TABLES = sorted((Path(__file__).parents[2] / "conf" / "table").glob("*.yaml"))


def spec(name):
    (path,) = [path for path in TABLES if path.stem == name]
    return read_spec(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


def record(experiment, attack, value, images=4952, flags=(), checkpoint="aa", date="2026-01-01", **run) -> Record:
    info = replace(RUN, **{"experiment": experiment, "checkpoint_sha256": checkpoint} | run)
    return replace(RECORD, run=info, attack=attack, map=value, num_images=images, flags=list(flags), date=date)


def row(table, title):
    return dict(table.rows)[title]


# The paper's numbers, typed a second time: Tables 1, 2 and 3.
PAPER = {
    "table1": {
        "voc_std": "77.5 1.8 4.5 1.2 4.9",
        "voc_at_cls": "46.7 21.8 32.2 - 28.0",
        "voc_at_loc": "51.9 23.7 26.5 - 17.2",
        "voc_mtd": "48.0 29.1 31.9 18.2 28.5",
        "voc_cwat": "51.3 22.4 36.7 19.9 50.3",
        "voc_robustdet": "75.4 41.5 45.2 42.4 52.0",
        "voc_cfr": "74.8 45.9 49.1 48.0 56.6",
    },
    "table2": {
        "coco_std": "42.0 0.4 1.8 0.1 8.1",
        "coco_mtd": "24.2 13.0 13.4 7.7 -",
        "coco_cwat": "23.7 14.2 15.5 9.2 -",
        "coco_robustdet": "36.7 20.6 19.4 20.5 24.5",
        "coco_cfr": "36.0 20.0 19.0 19.9 16.5",
    },
    "table3": {
        "voc_robustdet_no_aid": "74.9 37.3 44.9 37.9 51.8",
        "voc_cfr_no_re": "74.6 27.5 41.8 28.6 55.9",
        "voc_robustdet": "75.4 41.5 45.2 42.4 52.0",
        "voc_cfr": "74.8 45.9 49.1 48.0 56.6",
    },
}


@pytest.mark.parametrize("name", PAPER)
def test_the_yaml_holds_the_papers_numbers(name):
    table = spec(name)
    for experiment, numbers in PAPER[name].items():
        expected = [None if number == "-" else float(number) for number in numbers.split()]
        assert [table.paper(experiment, attack) for attack in table.columns] == expected
    with_numbers = {row.experiment for row in table.rows if row.paper}
    assert with_numbers == set(PAPER[name])


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_table_can_be_filled_and_written(path):
    table = spec(path.stem)
    filled = fill(table, [replace(record(table.rows[0].experiment, "clean", 0.5), ap_rule=table.rule)])
    for write in (to_markdown, to_latex, to_csv):
        assert "50.0" in write(filled)
        assert "Clean" in write(filled)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_column_of_a_table_is_of_its_suite(path):  # and rows: tests/launchers/test_composition.py
    table, conf = spec(path.stem), path.parents[1]
    suite = yaml.safe_load((conf / "suite" / f"{table.suite}.yaml").read_text(encoding="utf-8"))
    in_suite = set(suite["attacks"]) | {
        key.partition("@attacks.")[2] for entry in suite["defaults"] if entry != "_self_" for key in entry
    }
    assert set(table.columns) <= in_suite


def test_ours_stands_beside_the_papers():
    table = fill(spec("table1"), [record("voc_std", "clean", 0.774), record("voc_mtd_warm", "clean", 0.5)])
    assert "| SSD | 77.4 (77.5) | – (1.8) | – (4.5) | – (1.2) | – (4.9) |" in to_markdown(table)
    assert "| MTD on the same schedule | 50.0 | – | – | – | – |" in to_markdown(table)  # the paper has no such row
    assert "MTD on the same schedule" not in to_markdown(fill(spec("table1"), []))
    assert r"RobustDet\* | – (74.8)" in to_markdown(table)


def test_part_of_a_split_and_flags_are_marked():
    records = [
        record("voc_std", "clean", 0.774, images=64),
        record("voc_std", "pgd_cls", 0.02, images=64, flags=["outside_ball: by far"]),
        record("voc_cfr", "pgd_cls", 0.4, flags=["outside_ball: by far"]),
        record("voc_cfr", "clean", 0.7, images=100),
    ]
    text = to_markdown(fill(spec("table1"), records))
    assert r"77.4\* (77.5) | 2.0\*,a (1.8)" in text
    assert r"70.0\*\* (74.8) | 40.0 [a] (45.9)" in text
    assert r"\* on 64 of 4952 images" in text
    assert r"\*\* on 100 of 4952 images" in text
    assert r"[a] outside\_ball: by far" in text


def test_a_flag_is_said_once_and_names_its_attacks():
    suite = {"pgd_cls": "no_gradient: at all", "pgd_loc": "no_gradient: at all", "cwa": "loss_not_raised: in 3 images"}
    records = [record("voc_std", attack, 0.1, flags=[flag]) for attack, flag in suite.items()]
    table = fill(spec("table1"), records)
    assert table.footnotes == {"a": "no_gradient: at all (A_cls, A_loc)", "b": "loss_not_raised: in 3 images"}
    assert [cell.marks for cell in row(table, "SSD")] == [(), ("a",), ("a",), ("b",), ()]
    differing = [record("voc_cfr", "dag", 0.1, flags=["loss_not_raised: in 5 images", "no_gradient: at all"])]
    assert fill(spec("table1"), [*records, *differing]).footnotes == {
        "a": "no_gradient: at all (A_cls, A_loc, DAG)",
        "b": "loss_not_raised: CWA, DAG, such as: in 3 images",
    }


def test_what_may_not_enter_a_table_does_not():
    strangers = [
        record("voc_std", "clean", 0.9, suite="quick", tabled=False),
        record("voc_std", "clean", 0.9, tabled=False),
        record("voc_std", "clean", 0.9, suite="reliable"),
        record("voc_std", "clean", 0.9, protocol="authors"),
        replace(record("voc_std", "clean", 0.9), ap_rule="area"),
    ]
    assert row(fill(spec("table1"), strangers), "SSD")[0].ours is None


def test_a_record_that_is_what_its_suite_says_goes_before_one_that_is_not():
    crippled = record("voc_std", "pgd_cls", 0.7, date="2026-05-01", flags=["other_settings: pgd_cls: steps 1 …"])
    honest = record("voc_std", "pgd_cls", 0.018)
    for given in ([crippled, honest], [honest, crippled]):
        assert row(fill(spec("table1"), given), "SSD")[1].ours == pytest.approx(1.8)
    assert r"70.0 [a] (1.8)" in to_markdown(fill(spec("table1"), [crippled]))


def test_the_newest_whole_record_counts():
    records = [
        record("voc_std", "clean", 0.70, date="2026-02-01"),
        record("voc_std", "clean", 0.60, date="2026-01-01"),
        record("voc_std", "clean", 0.99, date="2026-03-01", images=10),
        record("voc_std", "clean", 0.10, date="2025-01-01", checkpoint="bb"),  # of nobody knows which run
    ]
    for given in (records, records[::-1]):
        cell = row(fill(spec("table1"), given), "SSD")[0]
        assert (cell.ours, cell.spread, cell.runs) == (pytest.approx(70), None, 1)


def test_a_row_is_of_one_training_and_says_when_there_are_more():
    older = {"training_recipe": "x", "date": "2026-01-01"}
    records = [
        record("voc_std", "clean", 0.77, **older),
        record("voc_std", "pgd_cls", 0.018, **older),
        record("voc_std", "clean", 0.10, training_recipe="y", date="2026-02-01"),
        record("voc_std", "cwa", 0.012, training_recipe="x", date="2026-03-01", images=64),
    ]
    note = (
        "voc_std was trained or evaluated in 2 ways that differ in more than the seed: "
        "finished ones come before others, whole splits before parts, then the newest"
    )
    for table, title in ((fill(spec("table1"), records), "SSD"), (summary(records), "voc_std")):
        clean, *attacked = row(table, title)
        assert clean.ours == pytest.approx(10)
        assert [cell.ours for cell in attacked] == [None] * len(attacked)
        assert table.notes[-1] == note
    unknown = [replace(r, run=replace(r.run, training_recipe=None, checkpoint_sha256=str(r.date))) for r in records]
    assert [cell.ours for cell in row(fill(spec("table1"), unknown), "SSD")][1:] == [None] * 4


def test_a_row_is_of_one_split_and_one_rule_of_average_precision():
    for changed in ({"split": "VOC2012 val", "split_size": 5823, "images": 5823}, {"data": "VOC 2012"}):
        records = [record("voc_std", "clean", 0.7, **changed), record("voc_std", "pgd_cls", 0.1, date="2026-02-01")]
        table = summary(records)
        assert [cell.ours for cell in row(table, "voc_std")] == [None, pytest.approx(10)]
        assert "in 2 ways" in table.notes[0]
    area = replace(of_seed(1, 0.9), ap_rule="area")
    cell = row(summary([area, of_seed(0, 0.7, date="2026-02-01")]), "voc_std")[0]
    assert (cell.ours, cell.runs) == (pytest.approx(70), 1)


def test_a_table_is_of_one_split():
    elsewhere = record("voc_cfr", "clean", 0.7, split="VOC2012 val")
    with pytest.raises(ValueError, match="table table1: a table is of one split, got records of VOC2007 test, VOC2012"):
        fill(spec("table1"), [record("voc_std", "clean", 0.7), elsewhere])


def of_seed(seed, value, recipe="x", **changes):
    return record(
        "voc_std", "clean", value, training_seed=seed, training_recipe=recipe, checkpoint=f"{seed}", **changes
    )


def test_runs_that_differ_only_in_their_seed_are_averaged_with_students_interval():
    records = [
        of_seed(0, 0.70, date="2026-02-03"),
        of_seed(1, 0.74, date="2026-02-02"),
        of_seed(2, 0.75, date="2026-02-01"),
        of_seed(2, 0.20, date="2026-01-01"),  # superseded
        of_seed(3, 0.99, date="2026-03-01", images=10),  # never mixed with whole ones
        of_seed(4, 0.10, recipe="y", date="2026-01-01"),  # trained otherwise
        of_seed(5, 0.10, suite="reliable", date="2026-01-01"),
    ]
    table = fill(spec("table1"), records)
    cell = row(table, "SSD")[0]
    values = [70.0, 74.0, 75.0]
    deviation = (sum((value - 73) ** 2 for value in values) / 2) ** 0.5
    assert (cell.ours, cell.runs) == (pytest.approx(73), 3)
    assert cell.spread == pytest.approx(
        4.302653 * deviation / 3**0.5
    )  # t of 2 degrees of freedom, from a printed table
    assert "73.0 ± 6.6 (77.5)" in to_markdown(table)
    assert "±: 95 % interval of the mean over seeds (Student's t, 3 runs)" in to_markdown(table)
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5)
    pair = fill(spec("table1"), records[:2])
    assert (row(pair, "SSD")[0].spread, row(pair, "SSD")[0].runs) == (None, 2)
    assert "mean of two runs, too few for an interval: SSD" in pair.notes
    assert not any("±" in note for note in pair.notes)
    newest = of_seed(0, 0.5, date="2026-04-01", protocol="paper")
    other_attack = replace(newest, attack_settings={"steps": 3})
    assert row(fill(spec("table1"), [*records, other_attack]), "SSD")[0].runs == 1


def test_a_look_at_a_training_that_goes_on_stands_in_no_finished_ones_place():
    seeds = [of_seed(0, 0.70), of_seed(1, 0.74)]
    why = "after 5 updates: its training has not ended"
    look = record("voc_std", "clean", 0.2, date="2030-01-01", checkpoint_sha256="9" * 64, unfinished=why)
    table = fill(spec("table1"), [*seeds, look])
    assert (row(table, "SSD")[0].ours, row(table, "SSD")[0].runs) == (pytest.approx(72), 2)
    assert any("in 2 ways" in note for note in table.notes)
    alone = fill(spec("table1"), [look])
    assert row(alone, "SSD")[0].ours == pytest.approx(20)
    assert f"voc_std: the weights are unfinished, {why}" in alone.notes


def test_a_summary_shows_all_it_is_given():
    records = [
        record("voc_std", "clean", 0.774, images=64, suite="quick", tabled=False),
        record("voc_std", "pgd_cls", 0.1, images=64, suite="quick", tabled=False),
        record("mine", "tog", 0.3),
    ]
    table = summary(records, [spec("table1"), spec("table2")])
    assert table.columns == ["Clean", "A_cls", "tog"]
    text = to_markdown(table)
    assert r"| voc\_std | 77.4\* (77.5) | 10.0\* | – |" in text  # five steps are not the paper's attack
    assert "| mine | – | – | 30.0 |" in text
    same_suite = summary([record("voc_std", "pgd_cls", 0.1)], [spec("table1")])
    assert "10.0 (1.8)" in to_markdown(same_suite)


def test_a_summary_of_many_attacks_has_them_below_each_other():
    attacks = ["clean", *(f"attack_{number}" for number in range(8))]
    records = [record("voc_std", attack, 0.01 * number) for number, attack in enumerate(attacks)]
    records.append(record("mine", "attack_7", 0.5, flags=["no_gradient: at all"]))
    table = summary(records, [spec("table1")])
    assert table.columns == ["voc_std", "mine"]
    assert [title for title, _ in table.rows] == ["Clean", *attacks[1:]]
    assert [cell.ours for cell in row(table, "attack_7")] == pytest.approx([8, 50])
    assert row(table, "attack_6")[1].ours is None
    assert row(table, "Clean")[0].paper == 77.5
    assert table.footnotes == {"a": "no_gradient: at all"}


def test_csv_keeps_full_precision_and_says_everything():
    records = [record("voc_std", "clean", 0.7741234, images=64, flags=["not_finite: x"])]
    lines = list(csv.DictReader(io.StringIO(to_csv(fill(spec("table1"), records)))))
    assert float(lines[0]["ours"]) == pytest.approx(77.41234)
    assert lines[0]["paper"] == "77.5"
    assert lines[0]["notes"] == "on 64 of 4952 images; not_finite: x"
    assert lines[1]["ours"] == ""


def test_latex_is_escaped():
    text = to_latex(fill(spec("table1"), [record("voc_std", "pgd_cls", 0.02, flags=["outside_ball: ε = 8/255 50 %"])]))
    assert r"A\_cls" in text
    assert r"outside\_ball: $\varepsilon$ = 8/255 50 \%" in text
    assert text.count("{") == text.count("}")


def test_the_terminal_shows_it_too():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(to_rich(fill(spec("table1"), [record("voc_cfr", "pgd_cls", 0.4, flags=["outside_ball: by far"])])))
    text = console.export_text()
    assert "40.0 [a] (45.9)" in text
    assert "[a] outside_ball: by far" in text
    assert "AP in percent: ours (paper's)" in text


def test_a_narrow_terminal_still_shows_every_row_and_number():
    console = Console(width=72, record=True, file=io.StringIO())
    console.print(to_rich(fill(spec("table1"), [record("voc_cfr", "pgd_cls", 0.4)])))
    text = console.export_text()
    for part in ("SSD-AT (A_cls)", "RobustDet*", "40.0", "(45.9)", "(77.5)", "DAG"):
        assert part in text


def test_errors_name_the_file_and_the_row():
    good = {
        "name": "t",
        "title": "T",
        "suite": "paper",
        "protocol": "paper",
        "rule": "voc07",
        "columns": {"clean": "Clean"},
        "rows": [{"title": "SSD", "experiment": "voc_std", "paper": [1.0, 2.0]}],
    }
    with pytest.raises(ValueError, match=r"t\.yaml: row 'SSD' has 2 paper numbers for 1 columns"):
        read_spec(good, "t.yaml")
    with pytest.raises(ValueError, match=r"t\.yaml: not a table: .*'colums'"):
        read_spec({**good, "colums": {}}, "t.yaml")
    with pytest.raises(ValueError, match=r"t\.yaml: not a table: 'rows'"):
        read_spec({"name": "t"}, "t.yaml")
    with pytest.raises(ValueError, match=r"t\.yaml: not a table: .*'rule'"):
        read_spec({key: value for key, value in good.items() if key != "rule"}, "t.yaml")
