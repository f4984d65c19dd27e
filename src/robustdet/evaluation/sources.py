"""Which code made a result: the text of the classes that did, and of all that they import which is no library.

A commit would not do: it changes with every file that has nothing to do with the result, and does not with an edit that
nobody has committed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor

# A result's identity holds the versions of these. (Others that an attack uses are its own affair.)
VERSIONED = {"torch", "torchvision", "numpy"}
VERSIONED_WHERE_USED = {"transformers"}  # a detector's library that is much too large to read


def digest_of(*makers: Any) -> str:
    """Hex digest of the source of ``makers``: modules, and objects with all that they hold (objectives, inner attacks).

    An attack counts wherever its class lives, and so does what its module imports, but for installed libraries. What
    was defined where there is no file (a notebook's cell) counts with the text that Python knows of it.
    """
    parts = sorted(set(_made_of(makers, {})), key=lambda part: (part.__module__, part.__qualname__))
    named = {part.__module__ for part in parts} | {maker.__name__ for maker in makers if isinstance(maker, ModuleType)}
    own = {name.partition(".")[0] for name in named} - VERSIONED - VERSIONED_WHERE_USED - set(sys.stdlib_module_names)
    texts = dict(_closure(named, own))
    for part in parts:
        if part.__module__.partition(".")[0] in own and part.__module__ not in texts.keys() - {"__main__"}:
            texts[f"{part.__module__}.{part.__qualname__}"] = _text_of(part)
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name}\n{len(texts[name])}\n{texts[name]}\n".encode())
    return digest.hexdigest()


def _made_of(thing: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """The classes and functions that ``thing`` and whatever it holds are instances of, or are.

    ``seen`` holds what was looked at by its id, and so keeps it: an id is soon given to something else.
    """
    if id(thing) in seen or isinstance(thing, Tensor | str | bytes | int | float | ModuleType | None):
        return
    seen[id(thing)] = thing
    if isinstance(thing, type):
        yield from (cls for cls in thing.__mro__ if cls is not object)
    elif isinstance(thing, FunctionType):
        yield thing
    elif isinstance(thing, functools.partial):
        yield from _made_of([thing.func, thing.args, thing.keywords], seen)
    elif isinstance(thing, Mapping):
        yield from _made_of(list(thing.values()), seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for one in thing:
            yield from _made_of(one, seen)
    else:
        yield from _made_of(type(thing), seen)
        yield from _made_of(getattr(thing, "__dict__", {}), seen)
        yield from _made_of(getattr(thing, "__self__", None), seen)  # of a bound method


def _closure(names: Iterable[str], own: set[str]) -> Iterator[tuple[str, str]]:
    """Name and text of these modules and of all that they import, library files of packages not in ``own`` left out."""
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        file = _file_of(name, own)
        if file is not None:
            text = file.read_text(encoding="utf-8")
            yield name, text
            waiting += _imports(text, name if file.name == "__init__.py" else name.rpartition(".")[0])


def _file_of(name: str, own: set[str]) -> Path | None:
    """The source of a module that is no library; None for libraries, and where there is none. Nothing is imported."""
    top, *below = name.split(".")
    if top not in own and (top in sys.stdlib_module_names or top in _installed()):
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    files = [Path(file)] if file else _places(top, below)
    return next((place for place in files if place.suffix == ".py" and place.is_file()), None)


def _places(top: str, below: Sequence[str]) -> list[Path]:
    """Where a module of a package that can be found would lie."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return []
    if not below:
        return [Path(spec.origin)] if spec.origin else []
    folders = [Path(location, *below) for location in spec.submodule_search_locations or []]
    return [place for folder in folders for place in (folder.with_suffix(".py"), folder / "__init__.py")]


@functools.cache
def _installed() -> frozenset[str]:
    """Top-level names of all installed distributions, wherever on the path they lie (``pip install --target`` too)."""
    return frozenset(packages_distributions())


@functools.lru_cache(maxsize=1024)
def _imports(text: str, package: str) -> tuple[str, ...]:
    """Names of all modules that a file of ``package`` imports, at whatever place in it."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _text_of(part: Any) -> str:
    try:
        return inspect.getsource(part)
    except (OSError, TypeError):
        return ""
