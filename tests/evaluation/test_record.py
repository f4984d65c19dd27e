import json
import math
import subprocess
from dataclasses import replace

import pytest

from robustdet.evaluation import environment
from robustdet.evaluation.environment import describe_environment, file_sha256
from robustdet.evaluation.record import Record, read_record, read_records, write_record, write_records
from tests.evaluation.records import RECORD


@pytest.fixture
def record() -> Record:
    return replace(RECORD, flags=["not_finite: one"])


def test_there_and_back(record, tmp_path):
    path = write_record(record, tmp_path / "run" / "records")
    assert path.name == "pgd_cls.json"
    assert read_record(path) == record
    assert read_records([tmp_path]) == [record]
    assert json.loads(path.read_text(encoding="utf-8"))["partial"] is False
    newer = replace(record, num_images=64)
    assert write_record(newer, path.parent) == path
    assert read_record(path).partial
    assert [file.name for file in path.parent.iterdir()] == ["pgd_cls.json"]


def change(content, key, value):
    *above, last = key.split(".")
    for name in above:
        content = content[name]
    if value is KeyError:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("map", "high", r"pgd_cls\.json: key 'map' should be a valid number, got 'high'"),
        ("map", True, r"pgd_cls\.json: key 'map' should be a valid number, got True"),
        ("map", KeyError, r"pgd_cls\.json: key 'map' is missing"),
        ("mapp", 1.0, r"pgd_cls\.json: key 'mapp' is unknown"),
        ("run.seed", 0.5, r"pgd_cls\.json: key 'run\.seed' should be a valid integer, got 0\.5"),
        ("run", [], r"pgd_cls\.json: key 'run' should be an object, got \[\]"),
        ("run.suite", KeyError, r"key 'run\.suite' is missing"),
        ("per_class.cat", "x", r"key 'per_class\.cat' should be a valid number, got 'x'"),
        ("per_class", [1], r"key 'per_class' should be an object, got \[1\]"),
        ("flags", "none", r"key 'flags' should be a valid array, got 'none'"),
        ("flags", [3], r"key 'flags\.0' should be a valid string, got 3"),
        ("environment.libraries.torch", 2, r"key 'environment\.libraries\.torch' should be a valid string, got 2"),
        ("map", math.nan, r"not a JSON file: NaN is no number that a record can have"),
        ("attack_settings", math.inf, r"not a JSON file: Infinity is no number that a record can have"),
        ("seconds", None, r"key 'seconds' should be a valid number, got None"),
        ("partial", True, r"key 'partial' is True, but there are 4952 of 4952 images"),
    ],
)
def test_errors_name_the_file_and_the_key(record, tmp_path, key, value, message):
    path = write_record(record, tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content, key, value)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_record(path)


def test_what_is_no_record_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: not a JSON file"):
        read_record(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"b\.json: expected a JSON object, got list"):
        read_record(tmp_path / "b.json")


def test_a_whole_number_is_a_float_too_but_nan_is_never_written(record, tmp_path):
    path = write_record(record, tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["map"] = 0
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_record(path).map == 0.0
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(replace(record, map=math.nan), tmp_path)


def test_the_environment_says_where_a_result_comes_from(monkeypatch):
    here = describe_environment("cpu")
    assert here.device.startswith("cpu")
    assert {"torch", "torchvision", "pytorch-lightning"} <= set(here.libraries)
    assert (here.commit is None) == (here.dirty is None)

    def no_git(*arguments, **keywords):
        raise FileNotFoundError("git")

    monkeypatch.setattr(environment.subprocess, "run", no_git)
    assert describe_environment("cpu").commit is None


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("src/new.py", True),
        ("conf/attack/new.yaml", True),
        ("notes.txt", False),
        ("pyproject.toml", True),
        ("src/robustdet/environment.py", True),
        ("results/shapes/clean.json", False),  # a study writes its records there while it goes on
        ("docs/results.md", False),
    ],
)
def test_a_change_that_may_decide_a_result_is_dirty(tmp_path, monkeypatch, file, dirty):
    """The first three are new, the others are committed."""
    package = tmp_path / "src" / "robustdet"
    package.mkdir(parents=True)
    for old in ("pyproject.toml", "results/shapes/clean.json", "docs/results.md", "src/robustdet/environment.py"):
        (tmp_path / old).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / old).write_text("old", encoding="utf-8")

    def git(*arguments):
        author = ["-c", "user.name=x", "-c", "user.email=x"]
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
    assert describe_environment("cpu").dirty is False
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("new", encoding="utf-8")
    assert describe_environment("cpu").dirty is dirty


def test_only_the_last_records_of_a_folder_stay(record, tmp_path):
    write_records([record, replace(record, attack="left")], tmp_path)
    write_records([record], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f"{record.attack}.json"]


def test_a_checkpoint_is_known_by_its_hash(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
