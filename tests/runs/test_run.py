"""A run's marks, lock and result; finding one below a folder that others use too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustdet.runs.run import BEGUN, ENDED, Run, RunAtWorkError, behind_ended, finished, unfinished

ENDED_MARK = {"experiment": "e", "checkpoint": "checkpoints/final.ckpt", "identity": "x", "recipe": "r"}


def ended(folder: Path, age: int = 0, **more: object) -> Run:
    run = Run(folder)
    run.begin({"experiment": "e", "identity": "x"}, "model: {}\n")
    run.checkpoints.mkdir()
    run.final.touch()
    run.end({**ENDED_MARK, **more})
    os.utime(folder / ENDED, (age, age))
    return run


def test_a_run_is_found_around_its_checkpoints_and_around_nothing_else(tmp_path: Path):
    run = ended(tmp_path / "run")
    assert Run.around(run.final) == run
    assert run.ended_with(run.final)
    earlier = run.checkpoints / "step_3.ckpt"
    earlier.touch()
    assert Run.around(earlier) == run
    assert not run.ended_with(earlier)
    elsewhere = run.folder / "final.ckpt"
    elsewhere.touch()
    assert Run.around(elsewhere) is None
    (run.folder / "config.yaml").unlink()
    assert Run.around(run.final) is None


def test_the_newest_complete_run_of_an_identity_is_the_one_to_start_from(tmp_path: Path):
    ended(tmp_path / "old", 1)
    new = ended(tmp_path / "new", 2)
    ended(tmp_path / "trial", 3, incomplete="it made 1 of 1000 updates")
    ended(tmp_path / "other", 4, identity="y")
    lost = ended(tmp_path / "lost", 5)
    lost.final.unlink()
    assert finished(tmp_path, "x") == new.final
    assert finished(tmp_path, "z") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read, and is passed over"),
        ("[1]", "lacks experiment, checkpoint"),
        ('{"checkpoint": "a", "fingerprint": "b"}', "lacks experiment"),
        ("\x00", "cannot be read, and is passed over"),
    ],
)
def test_a_mark_that_is_none_of_ours_is_passed_over_with_a_word(text: str, reason: str, tmp_path: Path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / ENDED).write_text(text, encoding="utf-8")
    run = ended(tmp_path / "run")
    with pytest.warns(UserWarning, match=f"foreign/run.json .*{reason}"):
        assert finished(tmp_path, "x") == run.final


def test_a_run_of_an_older_version_has_a_result_and_is_nobodys_start(tmp_path: Path):
    run = ended(tmp_path / "run")
    (run.folder / ENDED).write_text(
        '{"experiment": "e", "checkpoint": "checkpoints/final.ckpt", "fingerprint": "x"}', encoding="utf-8"
    )
    assert run.ended_with(run.final)
    assert finished(tmp_path, "x") is None


def test_a_broken_mark_of_an_unfinished_run_is_passed_over_too(tmp_path: Path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / BEGUN).write_text("{", encoding="utf-8")
    run = Run(tmp_path / "run")
    run.begin({"experiment": "e", "identity": "x"}, "model: {}\n")
    os.utime(run.folder / BEGUN, (0, 0))
    with pytest.warns(UserWarning, match=r"foreign/unfinished\.json cannot be read"):
        assert unfinished(tmp_path, "x", "e") == run
    with (
        pytest.warns(UserWarning, match=r"foreign/unfinished\.json cannot be read"),
        pytest.raises(FileNotFoundError, match=r"no unfinished run of e .* with other settings there are .*run"),
    ):
        unfinished(tmp_path, "y", "e")


def test_a_run_that_has_saved_nothing_does_not_hide_one_that_has(tmp_path: Path):
    older, newer = Run(tmp_path / "older"), Run(tmp_path / "newer")
    for number, run in enumerate((older, newer)):
        run.begin({"experiment": "e", "identity": "x"}, "model: {}\n")
        os.utime(run.folder / BEGUN, (number, number))
    assert unfinished(tmp_path, "x", "e") == newer
    older.checkpoints.mkdir(exist_ok=True)
    (older.checkpoints / "last.ckpt").touch()
    assert unfinished(tmp_path, "x", "e") == older


@pytest.mark.parametrize("text", ["- 1\n", "a: [", "name: x\n"])
def test_a_config_that_is_none_is_named(text: str, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.yaml (cannot be read|is no config of a run)"):
        _ = Run(tmp_path).config


def test_a_run_that_is_at_work_is_not_joined_and_a_dead_one_is_free(tmp_path: Path):
    script = "from pathlib import Path; from robustdet.runs.run import Run\nwith Run(Path(r'%s')).at_work():\n"
    hold = [sys.executable, "-c", script % tmp_path + "    print('held', flush=True); input()"]
    other = subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    at_work = pytest.raises(RunAtWorkError, match=rf"is at work \(process {other.pid} on .+\): wait for its end")
    with at_work, Run(tmp_path).at_work():
        pass
    other.kill()
    other.communicate()
    with Run(tmp_path).at_work():
        assert json.loads((tmp_path / ".lock.json").read_text(encoding="utf-8"))["process"] == os.getpid()
    assert not (tmp_path / ".lock.json").exists()


@pytest.mark.parametrize("checkpoint", [5, None, ["a"], {}])
def test_a_mark_of_other_types_is_passed_over_too(checkpoint: object, tmp_path: Path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / ENDED).write_text(json.dumps({**ENDED_MARK, "checkpoint": checkpoint}), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"foreign/run\.json is no mark of a run.*lacks checkpoint"):
        assert finished(tmp_path, "x") is None


def test_runs_come_and_go_while_others_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = ended(tmp_path / "run")
    (tmp_path / "gone").mkdir()
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [tmp_path / "gone" / ENDED, run.folder / ENDED])
    assert [one.folder for one in Run.below(tmp_path)] == [run.folder]


def test_what_ended_keeps_its_folder_and_the_next_is_beside_it(tmp_path: Path):
    folder = tmp_path / "stage_a"
    assert behind_ended(folder) == folder
    ended(folder)
    assert behind_ended(folder) == tmp_path / "stage_a_2"
    Run(tmp_path / "stage_a_2").begin({"experiment": "e", "identity": "x"}, "model: {}\n")  # unfinished: gone on with
    assert behind_ended(folder) == tmp_path / "stage_a_2"
    ended(tmp_path / "stage_a_3")


def test_who_may_not_lock_is_told_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*given: object, **more: object) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr("robustdet.runs.run.FileLock.acquire", refuse)
    with pytest.raises(PermissionError, match=rf"{tmp_path}, .*cannot be written to"), Run(tmp_path).at_work():
        pass
