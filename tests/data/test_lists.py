"""Lists of images as people's tools write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustdet.data.lists import listed, readings
from robustdet.data.problems import Problems
from robustdet.errors import InputError

KNOWN = ["im00", "im01", "day1/im00", "shelf 12 a", "a.b", "señal", "photo 1", "photo"]


def names(tmp_path: Path, content: bytes) -> list[str]:
    (tmp_path / "train.txt").write_bytes(content)
    problems = Problems()
    found = listed(tmp_path / "train.txt", KNOWN, problems)
    problems.settle()
    return found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_encoding_and_any_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join(["im00", "", "im01  ", "señal"])
    assert names(tmp_path, text.encode(encoding)) == ["im00", "im01", "señal"]


@pytest.mark.parametrize("content", [b"im00\nim\x0001\n", "im00\nim01\n".encode("utf-32"), b"\0" * 8])
def test_nul_is_in_no_name(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"train\.txt cannot be read as text: it holds NUL"):
        names(tmp_path, content)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("im00", "im00"),
        ("im00.jpg", "im00"),
        ("im00.JPG 1", "im00"),
        ("im00 -1", "im00"),
        ("im00  1 0", "im00"),
        ("im00.jpg 1 0", "im00"),
        ("im00.png 10,20,30,40,0", "im00"),
        ("day1/im00", "day1/im00"),
        ("day1\\im00.jpg", "day1/im00"),
        ("./day1/im00.jpg -1", "day1/im00"),
        ("VOC2007/JPEGImages/im00.jpg VOC2007/Annotations/im00.xml", "im00"),
        ("/home/me/cells/JPEGImages/day1/im00.jpg", "day1/im00"),
        ("shelf 12 a", "shelf 12 a"),
        ("shelf 12 a.jpg", "shelf 12 a"),
        ("shelf 12 a -1", "shelf 12 a"),
        ("a.b", "a.b"),
        ("a.b.jpg", "a.b"),
        ("sen\u0303al", "señal"),
        ("photo 1.jpg", "photo 1"),
    ],
)
def test_a_line_names_one_image(tmp_path: Path, line: str, name: str) -> None:
    assert names(tmp_path, line.encode()) == [name]
    assert name in readings(line)


def test_a_line_that_can_be_two_images_is_told_with_both(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.txt: line 2: the line is the text 'photo 1'; .* photo 1 or photo"):
        names(tmp_path, b"im00\nphoto 1\n")


def test_an_image_that_is_listed_twice_is_told_with_both_lines(tmp_path: Path) -> None:
    text = r"train\.txt: line 3: the line is the text 'im00\.jpg 1'; expected each image once: line 1 has it too"
    with pytest.raises(InputError, match=text):
        names(tmp_path, b"im00.jpg -1\nim01\nim00.jpg 1\n")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"train\.txt lists no image"),
        (b"\r\n \n", r"train\.txt lists no image"),
        (b"im\xff\n", r"train\.txt cannot be read as text: .*; expected names in UTF-8 or UTF-16"),
    ],
)
def test_what_is_no_list_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(InputError, match=text):
        names(tmp_path, content)


def test_a_name_that_nobody_knows_is_left_for_whoever_looks_for_its_files(tmp_path: Path) -> None:
    assert names(tmp_path, b"im77.jpg 1\n") == ["im77"]
