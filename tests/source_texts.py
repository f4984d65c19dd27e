"""Texts in the source as they are printed, so that a page's quotes can be held to them; `…` for what is filled in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "robustdet"
FILLED_IN = "…"


def literal(node: ast.AST) -> str | None:
    """A text's, an f-string's or their sum's; None of anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else FILLED_IN for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = literal(node.left), literal(node.right)
        return None if parts == (None, None) else "".join(FILLED_IN if part is None else part for part in parts)
    return None


def _docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            yield body[0].value


@cache
def source_texts() -> frozenset[str]:
    """All of the package but docstrings, blanks in a row as one; ``%s`` of the log is filled in as well."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        passed_over = set(map(id, _docstrings(tree)))
        texts = (literal(node) for node in ast.walk(tree) if id(node) not in passed_over)
        found |= {" ".join(re.sub(r"%[sdg]", FILLED_IN, text).split()) for text in texts if text}
    return frozenset(found)


def is_printed(quote: str) -> bool:
    """Whether a text of the source holds the quote; ``…`` in it stands for anything that is filled in."""
    pattern = re.compile(re.escape(quote).replace(FILLED_IN, f".*?{FILLED_IN}.*?"))
    return any(quote in text or pattern.search(text) for text in source_texts())
