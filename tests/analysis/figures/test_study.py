import csv
from dataclasses import dataclass, replace

import pytest
from matplotlib.figure import Figure

from robustdet.analysis.figures.study import Findings, Subject, require_detectors, save


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    missing: float | None = None


def ids(batches):
    return [target.image_id for batch in batches for target in batch.targets]


def test_the_first_images_are_the_same_whatever_was_asked_before(build_study):
    study = build_study()
    assert ids(study.first(3)) == ["image0", "image1", "image2"]
    assert ids(study.first(None)) == ids(study.first(99)) == [f"image{i}" for i in range(5)]
    assert ids(study.first(3)) == ["image0", "image1", "image2"]


def test_a_caption_says_whether_it_is_the_whole_split(build_study):
    study = build_study()
    assert study.caption(3) == "first 3 of 5 images of a test"
    assert study.caption(None) == study.caption(5) == "5 images of a test"


def test_findings_become_a_vector_a_bitmap_and_numbers(tmp_path):
    figure = Figure()
    figure.subplots().plot([0, 1])
    findings = Findings(figure, Row, [Row("a, b", 0.1 + 0.2), Row("c", 2.0, 1.5)])
    files = save(findings, tmp_path / "new", "name")
    assert [file.name for file in files] == ["name.pdf", "name.png", "name.csv"]
    assert files[0].read_bytes().startswith(b"%PDF")
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert list(csv.DictReader(files[2].read_text(encoding="utf-8").splitlines())) == [
        {"name": "a, b", "value": "0.3", "missing": ""},
        {"name": "c", "value": "2", "missing": "1.5"},
    ]
    again = save(findings, tmp_path / "again", "name")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]


def test_no_rows_still_have_a_header(tmp_path):
    files = save(Findings(Figure(), Row, []), tmp_path, "empty")
    assert files[2].read_text(encoding="utf-8") == "name,value,missing\n"


def test_a_subject_that_cannot_be_looked_at_is_named(build_study):
    study = build_study("tiny_ssd")
    study.subjects[0].model.train()
    with pytest.raises(ValueError, match=r"tiny_ssd is in training mode: call \.eval\(\)"):
        require_detectors(study)
    with pytest.raises(ValueError, match="x is no detector but a str"):
        require_detectors(replace(study, subjects=[Subject("x", "text")]))
