from __future__ import annotations

import csv
import io
import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from robustdet.analysis.rendering import to_csv
from robustdet.analysis.report.content import Report, write_tables
from robustdet.analysis.report.findings import find
from robustdet.analysis.report.flags import Explanation, explanations, flag_of
from robustdet.analysis.report.groups import describe, group
from robustdet.analysis.report.page import render
from robustdet.analysis.report.pareto import Point, Sweep, front, sweeps, training_sweeps
from robustdet.analysis.report.scatter import FRAME, scatter
from robustdet.analysis.table import read_spec
from robustdet.evaluation.checks import FLAGS as NAMES_OF_FLAGS
from tests.analysis.evaluations import (
    FLAG,
    FLAGS,
    PGD,
    write,
    write_config,
    write_everything,
    write_picture,
    write_trained,
)

TABLES = sorted((Path(__file__).parents[2] / "conf" / "table").glob("*.yaml"))
SPECS = [read_spec(yaml.safe_load(path.read_text(encoding="utf-8")), str(path)) for path in TABLES]
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What a browser would make of it: text, links and their targets; fails where tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []
        assert tag not in {"script", "iframe", "object"}
        assert not [name for name in given if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    write_everything(tmp_path / "outputs")
    return tmp_path / "outputs"


def report(*folders: Path) -> Report:
    return Report(find(folders), SPECS)


def test_without_a_folder_or_a_record_there_is_nothing_to_report(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"folders: .*/nowhere is no folder"):
        find([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"no records .* below .*: nothing to report.*src\.evaluate"):
        find([tmp_path])


def test_a_damaged_record_is_named_and_the_others_are_read(tmp_path: Path):
    whole, torn, foreign = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c")
    torn.write_text(torn.read_text(encoding="utf-8")[:100], encoding="utf-8")
    foreign.write_text('{"map": 1}', encoding="utf-8")
    findings = find([tmp_path])
    assert [found.file for found in findings.evaluated] == [whole]
    assert {damaged.file: damaged.reason for damaged in findings.damaged}.keys() == {torn, foreign}
    assert "not a JSON file" in findings.damaged[0].reason
    assert findings.damaged[1].reason.startswith("key 'run' is missing; key 'attack' is missing; ")
    text = Page(render(Report(findings, SPECS), FLAGS)).text
    assert f"Files that could not be read What they would say is missing from this page. {torn} not a JSON" in text


def test_one_record_of_each_weights_and_setting_counts(tmp_path: Path):
    write(tmp_path / "copy", ap=0.1, date="2026-01-02")
    newest = write(tmp_path / "newest", ap=0.2, date="2026-01-03")
    write(tmp_path / "part", ap=0.3, date="2026-01-04", num_images=10)
    others = [write(tmp_path / "other", checkpoint_sha256="b"), write(tmp_path / "suite", suite="reliable")]
    assert {found.file for found in find([tmp_path, tmp_path]).evaluated} == {newest, *others}


def test_a_run_knows_its_loss_weights(tmp_path: Path):
    write_config(tmp_path / "run", gamma=0.3)
    write(tmp_path / "run")
    write(tmp_path / "elsewhere", checkpoint_sha256="b")
    weights = [found.loss_weights for found in find([tmp_path]).evaluated]
    assert sorted(weights, key=len) == [{}, {"beta": 0.75, "gamma": 0.3}]


def test_numbers_stand_together_only_if_split_suite_and_protocol_are_the_same(outputs: Path):
    groups = group(find([outputs]).evaluated, SPECS)
    settings = [(one.suite, one.protocol, one.tabled) for one in groups]
    assert settings == [
        ("paper", "authors", True),
        ("paper", "paper", True),
        ("quick", "paper", False),
        ("reliable", "paper", True),
    ]
    paper = groups[1].average_precision(SPECS)
    assert paper.title == "AP (voc07) on VOC2007 test (suite=paper, protocol=paper)"
    assert paper.columns == ["Clean", "A_cls", "A_loc", "CWA", "DAG", "Worst case"]
    assert [title for title, _ in paper.rows] == ["voc_std", "voc_cfr"]  # as in the paper's table
    cells = dict(paper.rows)["voc_cfr"]
    assert [cell.paper for cell in cells] == [74.8, 45.9, 49.1, 48.0, 56.6, None]
    assert groups[0].average_precision(SPECS).rows[0][1][0].paper is None  # the authors' protocol is not the paper's
    assert groups[3].average_precision(SPECS).columns == ["Clean", "A_cls"]  # the paper's names whatever the suite


def test_what_is_not_for_comparison_says_so_and_is_in_no_other_table(outputs: Path):
    tables = report(outputs).tables
    with_quick = {name for name, table in tables.items() if "98.7" in to_csv(table)}
    assert with_quick == {"not_for_comparison_voc2007_test_quick_paper_voc07"}
    assert all("not for comparison" in tables[name].title for name in with_quick)
    page = Page(render(report(outputs), FLAGS)).text
    assert page.index("98.7") > page.index("Not for comparison Few images or few steps")


def test_a_tables_row_is_of_one_recipe_and_says_when_there_are_more(outputs: Path):
    reliable = group(find([outputs]).evaluated, SPECS)[3]
    assert reliable.average_precision(SPECS).notes == [
        "voc_robustdet was trained or evaluated in 3 ways that differ in more than the seed: "
        "finished ones come before others, whole splits before parts, then the newest"
    ]
    assert [cell.ours for cell in dict(reliable.average_precision(SPECS).rows)["voc_robustdet"]] == pytest.approx(
        [70, 40]
    )
    each = reliable.each_checkpoint(SPECS)
    assert each is not None
    assert [title for title, _ in each.rows[:2]] == ["voc_robustdet (00000000)", "voc_robustdet (11111111)"]
    assert [cell.ours for cell in each.rows[1][1]] == pytest.approx([75, 43])
    assert group(find([outputs]).evaluated, SPECS)[1].each_checkpoint() is None


def test_rules_of_average_precision_are_not_mixed(tmp_path: Path):
    write(tmp_path / "a")
    write(tmp_path / "b", checkpoint_sha256="b", ap_rule="area")
    write(tmp_path / "same weights, newer", ap_rule="area", date="2026-02-01")
    titles = [one.average_precision([]).title for one in group(find([tmp_path]).evaluated)]
    assert [title[:9] for title in titles] == ["AP (area)", "AP (voc07"]
    tables = report(tmp_path).tables
    assert [cell.paper for cell in tables["voc2007_test_paper_paper_area"].rows[0][1]] == [None]
    assert [cell.runs for cell in dict(tables["table1"].rows)["RobustDet*"]] == [1, 0, 0, 0, 0]


def test_a_table_of_the_paper_is_filled_for_each_split_by_itself(tmp_path: Path):
    write(tmp_path / "a", ap=0.7)
    write(tmp_path / "b", "pgd_cls", ap=0.5, checkpoint_sha256="b", split="VOC2012 val", date="2026-02-01")
    tables = {name: table for name, table in report(tmp_path).tables.items() if name.startswith("table1")}
    found = {name: [cell.ours for cell in dict(table.rows)["RobustDet*"][:2]] for name, table in tables.items()}
    assert found == {
        "table1_voc2007_test": [pytest.approx(70), None],
        "table1_voc2012_val": [None, pytest.approx(50)],
    }
    assert tables["table1_voc2012_val"].title.endswith("(ours on VOC2012 val, suite=paper, protocol=paper)")
    Page(render(report(tmp_path), FLAGS))


def test_a_checkpoints_own_tables_hold_all_its_records(tmp_path: Path):
    """Though its run was at hand in one evaluation and not in the other."""
    write(tmp_path / "a", "clean", ap=0.7)
    write(tmp_path / "copied", "pgd_cls", ap=0.5, training_recipe=None, date="2026-02-01")
    (one,) = group(find([tmp_path]).evaluated)
    assert [cell.ours for cell in one.per_class(one.checkpoints[0]).rows[0][1]] == pytest.approx([80, 80])


def test_per_class_precision_is_marked_like_the_mean(tmp_path: Path):
    write(tmp_path, "clean", num_images=10)
    write(tmp_path, "pgd_cls", per_class={"cat": 0.25, "dog": 0.125}, flags=[FLAG])
    (one,) = group(find([tmp_path]).evaluated)
    table = one.per_class(one.checkpoints[0])
    assert table.columns == ["clean", "pgd_cls"]
    assert [title for title, _ in table.rows] == ["cat", "dog"]  # no unicorn was there to be found
    assert [cell.ours for cell in table.rows[0][1]] == pytest.approx([80, 25])
    assert [cell.marks for cell in table.rows[0][1]] == [("*",), ("a",)]
    assert table.footnotes == {"*": "on 10 of 4952 images", "a": FLAG}


def test_classes_go_down_however_many_attacks_there_are(tmp_path: Path):
    for number in range(12):
        write(tmp_path, f"pgd_{number:02d}", per_class={"cat": number / 100, "dog": 0.5})
    (one,) = group(find([tmp_path]).evaluated)
    table = one.per_class(one.checkpoints[0])
    assert table.columns == [f"pgd_{number:02d}" for number in range(12)]
    assert [title for title, _ in table.rows] == ["cat", "dog"]
    assert [cell.ours for cell in table.rows[0][1]] == pytest.approx(list(range(12)))


def test_an_attack_is_described_as_one_would_call_it():
    assert describe(PGD) == "PGD(objective=a_cls, threat=LInf(epsilon=8/255), steps=20)"
    assert describe({"attacks": ["pgd_cls", "cwa"], "epsilon": 8 / 255}) == "attacks=[pgd_cls, cwa], epsilon=0.03137"


def test_the_front_is_what_no_point_beats():
    generator = random.Random(0)
    scores = [(float(generator.randrange(8)), float(generator.randrange(8))) for _ in range(40)]
    for mine, on_front in zip(scores, front(scores), strict=True):
        beaten = False
        for other in scores:
            as_good = other[0] >= mine[0] and other[1] >= mine[1]
            better = other[0] > mine[0] or other[1] > mine[1]
            beaten = beaten or (as_good and better)
        assert on_front == (not beaten)


def test_a_sweep_is_over_loss_weights_of_one_experiment(outputs: Path):
    reliable = group(find([outputs]).evaluated, SPECS)[3]
    (sweep,) = reliable.sweeps(SPECS)
    assert (sweep.experiment, sweep.robust) == ("voc_robustdet", "lowest of A_cls")
    assert [(point.label, point.on_front) for point in sweep.points] == [
        ("γ = 0.9", False),
        ("γ = 0.6", True),
        ("γ = 0.1", True),
    ]
    assert [point.robust for point in sweep.points] == pytest.approx([40, 43, 33])


def test_the_worst_case_is_the_robust_precision_where_all_have_it(tmp_path: Path):
    for index, gamma in enumerate((0.3, 0.6)):
        write_config(tmp_path / str(index), gamma=gamma)
        for attack, ap in {"clean": 0.7, "pgd_cls": 0.1, "cwa": 0.2, "worst_case": 0.05}.items():
            flags = [FLAG] if attack == "cwa" else []
            write(tmp_path / str(index), attack, ap, checkpoint_sha256=str(index) * 64, num_images=9, flags=flags)
    (sweep,) = sweeps(find([tmp_path]).evaluated, {})
    assert (sweep.robust, sweep.points[0].robust) == ("worst case", pytest.approx(5))
    assert sweep.points[0].note == f"on 9 of 4952 images; cwa: {FLAG}"
    for file in tmp_path.glob("1/**/worst_case.json"):
        file.unlink()
    (sweep,) = sweeps(find([tmp_path]).evaluated, {"cwa": "CWA"})
    assert (sweep.robust, sweep.points[0].robust) == ("lowest of CWA, pgd_cls", pytest.approx(10))


def test_training_runs_make_a_sweep_of_their_own(tmp_path: Path):
    for index, (gamma, clean, robust) in enumerate([(0.1, 0.9, 0.2), (0.6, 0.8, 0.3), (1.0, 0.7, 0.25)]):
        write_trained(tmp_path / "search" / str(index), gamma, clean, robust, pruned=gamma == 1)
    write_trained(tmp_path / "other", 5.0, float("nan"), 0.5)  # a loss that was not finite
    write(tmp_path / "run")
    findings = find([tmp_path])
    (sweep,) = training_sweeps(findings.trained)
    assert [(p.label, p.on_front, p.note) for p in sweep.points] == [
        ("γ = 1", False, "600 updates, pruned"),
        ("γ = 0.6", True, "600 updates"),
        ("γ = 0.1", True, "600 updates"),
    ]
    text = Page(render(Report(findings, SPECS), FLAGS)).text
    assert "not for comparison. Sweep of shapes_cfr : clean AP against robust AP (under the attack" in text
    (tmp_path / "other" / "run.json").write_text('{"experiment": "shapes_cfr"}', encoding="utf-8")
    (damaged,) = find([tmp_path]).damaged
    assert damaged.reason == "not a finished training run: KeyError('updates')"


@pytest.mark.parametrize("values", [[(70.0, 40.0)], [(0.0, 0.0), (100.0, 3.3)], [(71.2, 40.01), (71.3, 40.02)]])
def test_a_scatter_plot_holds_its_points_between_its_ticks(values: list[tuple[float, float]]):
    chart = scatter(Sweep("x", "worst case", [Point("p", *value, True, "") for value in values]))
    for dot in chart.dots:
        assert 0 < chart.x_ticks[0].at <= dot.x <= chart.x_ticks[-1].at < FRAME.width
        assert 0 < chart.y_ticks[-1].at <= dot.y <= chart.y_ticks[0].at < FRAME.height
    for ticks, axis in ((chart.x_ticks, 0), (chart.y_ticks, 1)):
        assert 2 <= len(ticks) <= 9
        ends = [float(ticks[0].text), float(ticks[-1].text)]
        for dot, value in zip(chart.dots, values, strict=True):  # a linear scale through the ends
            place = (dot.x, dot.y)[axis]
            share = (value[axis] - ends[0]) / (ends[1] - ends[0])
            assert place == pytest.approx(ticks[0].at + share * (ticks[-1].at - ticks[0].at), abs=0.11)


def test_every_table_is_written_three_ways_and_every_record_is_a_line(outputs: Path, tmp_path: Path):
    files = write_tables(report(outputs), tmp_path / "tables")
    kinds = Counter(file.suffix for file in files)
    assert kinds[".md"] == kinds[".tex"] == kinds[".csv"] - 1 > 4
    assert "46.1 (45.9)" in (tmp_path / "tables" / "table1.md").read_text(encoding="utf-8")
    assert "(ours on VOC2007 test, suite=paper, protocol=paper)" in (tmp_path / "tables" / "table1.tex").read_text(
        encoding="utf-8"
    )
    lines = list(csv.DictReader(io.StringIO((tmp_path / "tables" / "records.csv").read_text(encoding="utf-8"))))
    assert len(lines) == len(find([outputs]).evaluated)
    (dag,) = [line for line in lines if line["attack"] == "dag"]
    assert (dag["suite"], dag["protocol"], dag["map"], dag["kept"], dag["flags"]) == (
        "paper",
        "paper",
        "0.292",
        "4321",
        FLAG,
    )
    (quick,) = [line for line in lines if line["suite"] == "quick"]
    assert (quick["tabled"], quick["partial"], quick["num_images"]) == ("False", "True", "64")


def test_the_page_needs_nothing_beside_itself_and_its_links_lead_somewhere(outputs: Path):
    html = render(report(outputs), FLAGS)
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/") for source in page.sources)
    for link in page.links:
        assert link.startswith("data:") or (link.startswith("#") and link[1:] in page.ids), link
    assert "http" not in re.sub(r"data:[^\"]*", "", html).replace("http-equiv", "")
    assert "default-src 'none'" in html  # and the browser is told so


def test_the_page_says_it_all(outputs: Path):
    page = Page(render(report(outputs), FLAGS))
    for part in (
        "Table 1: mAP (VOC07, 11-point) on PASCAL VOC 2007 test (ours on VOC2007 test, suite=paper, protocol=paper)",
        "AP (voc07) on VOC2007 test (suite=paper, protocol=authors)",
        "RobustDet* 74.8 paper 74.8 46.1 paper 45.9 48.8 paper 49.1 34.4 paper 48.0 29.2 ⚑a paper 56.6",
        "⚑a outside_ball : changed by more than ε = 8/255",
        "77.4 *",
        "on 500 of 4952 images",
        "Worst case: hurt most by A_cls in 3000, CWA in 1952 of 4952 images",
        "A cascade, in its order: A_cls attacked 4952 images, CWA attacked 4000 images. 36 forward passes an image",
        "of 12032 objects, 9000 are found on clean images",
        "A_cls 32.1 34.5 6789 1.2 111 3.4 222 0.0 333 0.1 44 5.6 5555 50.0 25.0",
        "AP of 101 recalls missed mislabelled badly placed both doubled background AP missed",
        "background all not found all wrong",
        "A_cls 4500 37 % 1532 13 % 6000 50 % 2999",
        "more than 50 % are hidden",
        "A_cls 77 75.0 → 25.0 (11955) 70.0 → 12.5 (33) – → – (11922)",
        "A_cls pgd_cls PGD(objective=a_cls, threat=LInf(epsilon=8/255), steps=20)",
        "Sweep of voc_robustdet",
        "outside_ball raised 1× here voc_cfr: DAG raised when it left its ball what to do project with threat",
        "a" * 64,
        "voc_cfr: pgd steps",
        "the numbers (CSV)",
    ):
        assert part in page.text, part
    downloads = [unquote(link) for link in page.links if link.startswith("data:text")]
    assert any("steps,map\n1,0.5" in text for text in downloads)
    assert any(r"\caption{Table 1" in text for text in downloads)


def test_the_page_opens_with_its_conclusion_and_one_chart(outputs: Path):
    html = render(report(outputs), FLAGS)
    page = Page(html)
    said = page.text.index("Under the paper's attacks, voc_cfr keeps 29.2 of its 74.8 points of clean AP, least under")
    assert said < page.text.index("In the worst case, voc_cfr keeps 25.0 of its 74.8") < page.text.index("Contents")
    assert html.count('class="comparison"') == 1
    spoken = "voc_std: on clean images 77.4; voc_robustdet: on clean images 70.0; voc_cfr: on clean images 74.8, under"
    assert f'aria-label="{spoken}' in html
    widths = [float(width) for width in re.findall(r'<rect class="(?:clean|paper|worst)".*? width="([\d.]+)%"', html)]
    assert widths == pytest.approx([0.78 * ap for ap in (77.4, 70.0, 74.8, 29.2, 25.0)], abs=0.01)


def test_a_detector_of_several_seeds_has_an_interval_in_the_chart(tmp_path: Path):
    for seed, ap in enumerate((0.40, 0.44, 0.45)):
        for attack, value in {"clean": 0.7, "pgd_cls": ap}.items():
            write(tmp_path / str(seed), attack, value, training_seed=seed, checkpoint_sha256=str(seed) * 64)
    html = render(report(tmp_path), FLAGS)
    ends = [[float(x) for x in found] for found in re.findall(r'class="interval" x1="([\d.]+)%" x2="([\d.]+)%"', html)]
    assert ends[1] == pytest.approx([0.78 * (43 - 6.57), 0.78 * (43 + 6.57)], abs=0.01)


def test_training_curves_are_drawn_of_runs_that_kept_their_metrics(outputs: Path):
    html = render(report(outputs), FLAGS)
    assert "How training went" in Page(html).text
    assert 'aria-label="voc_cfr, training loss: loss from 6.5 after 20 updates to 2.5 after 60"' in html
    assert 'aria-label="voc_cfr, validation AP50, %: clean from 75 after 40 updates to 87.5 after 60' in html
    for file in outputs.rglob("metrics.csv"):
        file.unlink()
    assert "How training went" not in render(report(outputs), FLAGS)


def test_pictures_are_titled_by_experiment_and_attack(outputs: Path):
    html = render(report(outputs), FLAGS)
    title = "voc_cfr: clean and under A_cls, A_loc, CWA, DAG (paper)"
    assert [html.count(f'alt="{text}"') for text in (title, "voc_cfr: pgd steps")] == [1, 1]
    assert title in Page(html).text
    assert 'alt="detections"' not in html


def test_a_picture_is_of_the_evaluation_that_counts(tmp_path: Path):
    for folder, date in (("older", "2026-01-02"), ("newer", "2026-01-03")):
        write(tmp_path / folder, date=date)
        write_picture(tmp_path / folder / "evaluation" / "paper" / "detections.png")
    (picture,) = find([tmp_path]).pictures
    assert picture.is_relative_to(tmp_path / "newer")


def test_a_flag_of_many_numbers_is_explained_once_with_all_of_them(tmp_path: Path):
    for experiment in ("voc_cfr", "voc_std"):
        for attack in ("pgd_cls", "cwa", "tog"):
            run = tmp_path / experiment
            write(run, attack, 0.1, experiment=experiment, checkpoint_sha256=experiment * 9, flags=[FLAG])
    html = render(report(tmp_path), FLAGS)
    text = Page(html).text
    assert html.count('id="flag-outside_ball"') == 1
    assert "outside_ball raised 6× here voc_std: A_cls, CWA, tog; voc_cfr: A_cls, CWA, tog raised when" in text
    assert text.index("outside_ball raised 6×") < text.index("All other flags") < text.index("not_finite raised when")


def test_the_page_shows_a_mean_over_seeds_and_says_what_the_interval_is(tmp_path: Path):
    for seed, ap in enumerate((0.70, 0.74, 0.75)):
        write(tmp_path / str(seed), "clean", ap, training_seed=seed, checkpoint_sha256=str(seed) * 64)
    text = Page(render(report(tmp_path), FLAGS)).text
    assert "RobustDet* 73.0 ± 6.6 paper 74.8" in text  # 6.6: see test_table.py
    assert "with three seeds or more, the true mean lies within ± of it with 95 % confidence (Student's t)." in text
    assert "spread over checkpoints" not in text


def test_text_of_records_is_never_markup(tmp_path: Path):
    write(tmp_path, experiment="<script>alert(1)</script>", flags=["<b>bold</b>"], num_images=10)
    page = Page(render(report(tmp_path), FLAGS))
    assert "<script>alert(1)</script>" in page.text
    assert "<b>bold</b>" in page.text


def test_flags_are_explained_by_the_page_of_docs():
    opening, ball, not_finite = explanations(FLAGS)
    assert opening == (
        "<p>A <strong>flag</strong> is no proof. &lt;script&gt;is no HTML&lt;/script&gt;</p>\n<h3>One attack</h3>\n"
    )
    assert ball.name == "outside_ball"
    assert ball.parts == {"raised when": "it left its <em>ball</em>", "what to do": "project with <code>threat</code>"}
    assert not_finite.name == "not_finite"
    (table,) = explanations("| a | b |\n|---|---|\n| c | d |")  # no table of flags
    assert "<td>c</td>" in table


def test_the_docs_explain_every_flag_that_can_be_raised_and_no_other():
    docs = (Path(__file__).parents[2] / "docs" / "flags.md").read_text(encoding="utf-8")
    explained = [block.name for block in explanations(docs) if isinstance(block, Explanation)]
    assert sorted(explained) == sorted(NAMES_OF_FLAGS)


def test_a_flag_is_told_from_other_text():
    assert flag_of(FLAG) == ("outside_ball", FLAG.removeprefix("outside_ball"))
    assert flag_of("on 10 of 20 images") == ("", "on 10 of 20 images")
    assert flag_of("Not a name: really") == ("", "Not a name: really")


def test_a_flag_without_explanation_is_still_listed(outputs: Path):
    assert "outside_ball raised 1× here voc_cfr: DAG meaning Not explained" in Page(render(report(outputs), "")).text


def test_a_heavy_picture_is_embedded_lightly(tmp_path: Path):
    write(tmp_path)
    picture = tmp_path / "evaluation" / "paper" / "detections.png"
    write_picture(picture, (2600, 100))
    (source,) = Page(render(report(tmp_path), FLAGS)).sources
    assert source.startswith("data:image/webp")
    assert len(source) < picture.stat().st_size


def test_the_page_says_what_a_suite_left_out_and_why(tmp_path: Path):
    for attack in ("clean", "worst_case"):
        left_out = {} if attack == "clean" else {"cwa": "this detector offers no <losses>", "x": "no checkpoint"}
        write(tmp_path / "1", attack, left_out=left_out)
    said = re.findall(r"<p>(Left out, as .*?)</p>", render(report(tmp_path), FLAGS))
    assert said == ["Left out, as this detector offers no &lt;losses&gt;: CWA", "Left out, as no checkpoint: x"]
