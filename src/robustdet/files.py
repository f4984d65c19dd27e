"""Files that are whole or not there: written beside their place, put into it by one rename, read without trust.

A kill, a full disk or a power cut while a file is written leaves the one that was there before.
"""

from __future__ import annotations

import argparse
import errno
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from robustdet.errors import InputError, MissingFileError

UNFINISHED = "unfinished"  # the end of such a file's name, after the number of its process
# What a place can be, but for a missing one, that no program can mend.
OF_PLACES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "the file would be larger than is allowed",
    errno.EROFS: "it cannot be written to, for its file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
}


@contextmanager
def whole(file: Path | str) -> Iterator[Path]:
    """A file to write to, which becomes ``file`` when all is written; by an error it goes."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.{UNFINISHED}")
    try:
        yield unfinished
        with unfinished.open("rb+") as written:
            os.fsync(written.fileno())  # else a power cut could leave the name without the content
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(file: Path | str, text: str) -> None:
    with whole(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_tensors(file: Path | str) -> Mapping[str, Any]:
    """What `torch.save` wrote there: tensors and plain values by name, on the CPU. Code in it is never run.

    Raises MissingFileError, and InputError for whatever else is there.
    """
    file = Path(file)
    if not file.is_file():
        raise MissingFileError(f"no checkpoint at {file}")
    try:
        # Old recipes keep their arguments beside the weights; a Namespace is nothing but plain values.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make its reader stumble anywhere
        if isinstance(error, OSError) and (trouble := trouble_of_place(error)):
            raise InputError(f"{file} cannot be read: {trouble}") from error
        raise InputError(f"{file} is no checkpoint that is safe to read: {_why(file, error)}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__}, expected tensors by name")
    return content


def _why(file: Path, error: Exception) -> str:
    """In place of what torch says: it names its own inside, or advises to run what is in the file."""
    if not file.stat().st_size:
        return "it is empty"
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error):
        return "it holds more than tensors and plain values, such as a whole module, and reading that would run code"
    return "it is damaged, cut short, or no file of torch.save at all"


def trouble_of_place(error: OSError) -> str | None:
    """What is wrong with a place on a disk, in words; None for any other error."""
    text = OF_PLACES.get(error.errno or 0)
    if text is None:
        return None
    return f"{error.filename}: {text}" if error.filename else f"{text[0].upper()}{text[1:]}"
