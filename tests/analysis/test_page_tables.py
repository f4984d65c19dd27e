"""Tables in pages are what the records say; a page that asks for what is not there is named."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from robustdet.analysis.page_tables import rewritten
from robustdet.analysis.table import RowSpec, TableSpec
from robustdet.cli.building import suites_of, table_specs
from robustdet.cli.tables import pages
from robustdet.errors import InputError
from robustdet.evaluation.record import write_record
from tests.evaluation.records import RECORD, RUN

ROOT = Path(__file__).parents[2]
SPEC = TableSpec("mine", "Mine", "paper", "paper", "voc07", {"clean": "Clean", "cwa": "CWA"}, [RowSpec("A row", "std")])


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: page.name)
def test_the_pages_of_this_repository_are_what_its_records_say(page: Path):
    """`make tables` mends it."""
    assert rewritten(page, ROOT, table_specs(), suites_of) == page.read_text(encoding="utf-8")


def write(folder: Path, **values: float) -> Path:
    place = folder / "results" / "std" / "evaluation" / "paper" / "records"
    for attack, value in values.items():
        write_record(replace(RECORD, run=replace(RUN, experiment="std"), attack=attack, map=value), place)
    return place


def asked(tmp_path: Path, mark: str, end: str = "<!-- end of table -->") -> str:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n<!-- table {mark} -->\nold\n{end}\n\nAfter.\n", encoding="utf-8")
    return rewritten(page, tmp_path, [SPEC], lambda records: {})


def test_what_stands_between_the_marks_comes_from_records(tmp_path: Path):
    write(tmp_path, clean=0.5, cwa=0.25, outrank=0.125)
    text = asked(tmp_path, "mine of results")
    assert "old" not in text
    assert text.startswith("Before.\n\n<!-- table mine of results -->\n**Mine**\n")
    assert "| A row | 50.0 | 25.0 |" in text
    assert text.endswith("<!-- end of table -->\n\nAfter.\n")
    assert "| A row | 50.0 | 12.5 |" in asked(tmp_path, "mine columns=clean,outrank of results")


def test_records_come_from_several_folders(tmp_path: Path):
    write(tmp_path / "one", clean=0.5)
    write(tmp_path / "other", cwa=0.25)
    assert "| A row | 50.0 | 25.0 |" in asked(tmp_path, "mine of one/results,other/results")


@pytest.mark.parametrize(
    ("mark", "end", "said"),
    [
        ("yours of results", "<!-- end of table -->", "table yours: there is none of that name; expected one of mine"),
        ("mine rows=1 of results", "<!-- end of table -->", "rows=1 is no option; expected suite=… or columns=…"),
        ("mine suite=strongest of results", "<!-- end of table -->", "no record below results is of suite strongest"),
        ("mine of results", "<!-- end -->", "page.md: 1 tables begin and 0 end"),
    ],
)
def test_a_mark_that_means_nothing_is_named(tmp_path: Path, mark: str, end: str, said: str):
    write(tmp_path, clean=0.5)
    with pytest.raises(InputError, match=re.escape(said)):
        asked(tmp_path, mark, end)


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path):
    folder = write(tmp_path, clean=0.5)
    (folder / "cwa.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"cwa\.json cannot be read"):
        asked(tmp_path, "mine of results")
