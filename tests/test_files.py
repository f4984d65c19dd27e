"""Files are whole or not there; what a disk refuses is said in words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from robustdet.errors import InputError, MissingFileError
from robustdet.files import read_tensors, trouble_of_place, whole, write_text


def test_an_error_in_the_middle_leaves_the_file_that_was_there(tmp_path: Path):
    file = tmp_path / "new" / "file.txt"
    write_text(file, "before")
    with pytest.raises(OSError, match="full"), whole(file) as unfinished:  # noqa: PT012
        unfinished.write_text("a half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "full")
    assert file.read_text(encoding="utf-8") == "before"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, ""), "The disk is full"),
        (OSError(errno.EROFS, "", "/x"), "/x: it cannot be written to, for its file system is read-only"),
        (PermissionError(errno.EACCES, "", "/x"), "/x: permission is denied"),
        (OSError("some other"), None),
    ],
)
def test_what_is_wrong_with_a_place(error: OSError, text: str | None):
    assert trouble_of_place(error) == text


def test_tensors_that_are_none(tmp_path: Path):
    with pytest.raises(MissingFileError, match="no checkpoint at"):
        read_tensors(tmp_path / "nowhere")
    file = tmp_path / "some.pth"
    torch.save({"weight": torch.ones(1000)}, file)
    content = file.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2], content[:-1]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"some\.pth is no checkpoint that is safe to read"):
            read_tensors(file)
        assert ("it is damaged, cut short" in str(why(file))) == bool(damaged)
        assert ("it is empty" in str(why(file))) == (not damaged)


def why(file: Path) -> InputError:
    with pytest.raises(InputError) as told:
        read_tensors(file)
    return told.value


def test_code_is_named_and_nobody_is_told_to_run_it(tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    assert "reading that would run code" in str(why(tmp_path / "whole.pth"))
    assert "weights_only" not in str(why(tmp_path / "whole.pth"))
