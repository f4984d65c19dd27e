"""Lists of images as people's tools write them: one a line, with or without suffix, folder and further columns.

UTF-8, or UTF-16, with or without a byte order mark; any line ends. Columns behind the name are numbers ("im00 -1" of
VOC's lists by class, "im00 1 0"), or anything behind a name with a suffix ("a/im00.jpg a/im00.xml").
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from robustdet.data.files import content_of, one_form
from robustdet.data.pixels import SUFFIXES
from robustdet.data.problems import Fault, Problems

MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_SUFFIX = "|".join(suffix[1:] for suffix in (*SUFFIXES, ".xml"))
BEHIND_SUFFIX = re.compile(rf"^(.+?\.(?:{_SUFFIX}))\s+\S.*$", re.IGNORECASE)
LAST_NUMBER = re.compile(r"^(.*\S)\s+[-+]?\d+(?:\.\d*)?$")
LAST_SUFFIX = re.compile(rf"^(.+)\.(?:{_SUFFIX})$", re.IGNORECASE)


def listed(file: Path, known: Container[str], problems: Problems) -> list[str]:
    """The names in ``file``, in its order. One is that of ``known`` which a line can mean; a line may have only one.

    Of a line that means none the shortest reading is taken, for whoever looks for its files to say what is missing.
    """
    found: dict[str, int] = {}
    lines = [line.strip() for line in text_of(file).splitlines()]
    if not any(lines):
        raise Fault(file, "lists no image", "a name on each line")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        meant = [name for name in readings(line) if name in known]
        if len(meant) > 1:
            problems.add(file, f"line {number}", "the line", line, f"one name, and it can be {' or '.join(meant)}")
        name = meant[0] if meant else readings(line)[-1]
        if name in found:
            problems.add(file, f"line {number}", "the line", line, f"each image once: line {found[name]} has it too")
        elif len(meant) <= 1:
            found[name] = number
    return list(found)


def readings(line: str) -> list[str]:
    """What a line may name, the longest first, each in one form of Unicode."""
    cut = [line]
    if match := BEHIND_SUFFIX.match(line):
        cut.append(match[1])
    while match := LAST_NUMBER.match(cut[-1]):
        cut.append(match[1])
    found: dict[str, None] = {}
    for name in map(one_form, cut):
        path = name.replace("\\", "/").removeprefix("./")
        for one in (path, *(path.partition(f"{folder}/")[2] for folder in ("JPEGImages", "Annotations"))):
            if one:
                found[one] = None
                if match := LAST_SUFFIX.match(one):
                    found[match[1]] = None
    return list(found)


def text_of(file: Path) -> str:
    """Raises Fault for what is no text."""
    content = content_of(file)
    encoding = next((MARKS[mark] for mark in MARKS if content.startswith(mark)), None)
    if encoding is None and 3 * content.count(0) > len(content):  # every other byte of UTF-16, of plain letters
        encoding = "utf-16-le" if b"\0" in content[1::2] else "utf-16-be"
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise Fault(file, f"cannot be read as text: {error}", "names in UTF-8 or UTF-16") from None
    if "\0" in text:
        raise Fault(file, "cannot be read as text: it holds NUL, which no name does", "names in UTF-8 or UTF-16")
    return text
