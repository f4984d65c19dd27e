"""What happens to files: bytes turn, parts go or come twice, numbers and words become others, fields vanish."""

from __future__ import annotations

import copy
import random
import re
from typing import Any

NUMBERS = ["0", "-1", "1", "1.5", "nan", "inf", "-inf", "1e400", "1e-40", "99999999999999999999", "2147483648", "0x10",
           "", " ", "1,5", "１２", "None", "true", "12px", "127.99999999999999", "1_000"]  # fmt: skip
WORDS = [
    "",
    "\x00",
    "\ufeff",
    "person",
    "ünï",
    "../..",
    "null",
    "[]",
    "<!--",
    "&amp;",
    "&#0;",
    "%s",
    "{}",
    "\n",
    "-" * 300,
]
VALUES: list[Any] = [None, True, False, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 10**30, "", "1", "text", [], {},
                     [None], [1, 2], [0, 0, 0, 0], {"a": 1}]  # fmt: skip


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """The same with one to four changes somewhere."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(changed) + 1), chance.choice([1, 1, 2, 8, 64])
        match chance.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = chance.randbytes(length)
            case 3:
                changed[at:at] = changed[max(0, at - length) : at]
            case 4:
                del changed[at:]
            case 5:
                changed[at : at + length] = bytes([chance.choice([0, 0x20, 0x7F, 0xFF])]) * length
            case _:
                changed[at : at + length] = chance.randbytes(length)
    return bytes(changed)


def mutated_text(text: str, chance: random.Random) -> bytes:
    """Words and numbers become others, lines go or come twice, the encoding changes; sometimes bytes do."""
    for _ in range(chance.randint(1, 3)):
        pieces = re.split(r"(\d+(?:\.\d+)?|\w+|\n)", text)
        at = chance.randrange(len(pieces))
        match chance.randrange(5):
            case 0 | 1:
                numbers = [index for index, piece in enumerate(pieces) if piece[:1].isdigit()]
                pieces[chance.choice(numbers or [at])] = chance.choice(NUMBERS)
            case 2:
                pieces[at] = chance.choice(WORDS)
            case 3:
                del pieces[at : at + chance.randint(1, 12)]
            case _:
                pieces[at:at] = pieces[at : at + chance.randint(1, 12)]
        text = "".join(pieces)
    encoding = chance.choice(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "latin-1"])
    content = text.encode(encoding, errors="replace")
    return mutated_bytes(content, chance) if chance.random() < 0.15 else content


def mutated_value(value: Any, chance: random.Random) -> Any:
    """JSON-like data, of which one part has become another, is gone, or is there twice."""
    changed = copy.deepcopy(value)
    place = chance.choice(list(_places(changed)) or [None])
    if place is None:
        return chance.choice(VALUES)
    owner, key = place
    match chance.randrange(4):
        case 0:
            del owner[key]
        case 1 if isinstance(owner, list):
            owner.append(copy.deepcopy(owner[key]))
        case 2 if isinstance(owner, dict):
            owner[f"{key}_"] = owner.pop(key)
        case _:
            owner[key] = copy.deepcopy(chance.choice(VALUES))
    return changed


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
