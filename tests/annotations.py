"""Annotations of robustdet are executed while it is tested: types by beartype, shapes by jaxtyping.

Each function is checked in its first calls of every test. To check all of them, each twice as jaxtyping's plugin for
pytest does, took two fifths of the suite's time, and an annotation that holds four times holds a thousand times.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, get_type_hints

import jaxtyping
import torch
from beartype import beartype
from beartype.roar import BeartypeDecorHintException

CALLS = 4  # of a function that are checked, by test
unchecked: set[str] = set()  # functions with annotations for readers: typeshed knows more of a type than Python does
_tests = count(1)
_test = 0


def begin_test() -> None:
    """From here on every function's calls count anew."""
    global _test
    _test = next(_tests)


def execute_annotations() -> None:
    """Of what is imported of robustdet from here on, unless some of it has been: then they are executed already."""
    if "robustdet" in sys.modules:
        return
    jaxtyping.install_import_hook("robustdet", "beartype.beartype")
    jaxtyping.jaxtyped = checked  # type: ignore[assignment]  # what the hook decorates every function and class with


def checked(fn: Any = None, *, typechecker: Any = beartype) -> Any:
    """A function with its annotations executed, a class with those of its fields; as `jaxtyping.jaxtyped` is called."""
    if fn is None:
        return checked
    if not inspect.isclass(fn):
        try:
            return first_calls(beartype(fn), fn)
        except BeartypeDecorHintException:
            unchecked.add(f"{fn.__module__}.{fn.__qualname__}")
            return fn
    if dataclasses.is_dataclass(fn) and "__init__" in vars(fn):
        with suppress(NameError):  # a class of later on; those of its own module are found when it is called
            hints = get_type_hints(fn, include_extras=True)  # an inherited field's are of another module
            annotations = fn.__init__.__annotations__
            annotations.update({name: hints[name] for name in annotations.keys() & hints.keys()})
        fn.__init__ = checked(fn.__init__)
    return fn


_shapes_of_one_call = partial(jaxtyping.jaxtyped, "context")


def first_calls(strict: Callable[..., Any], fn: Callable[..., Any]) -> Callable[..., Any]:
    """``strict`` in the first calls of a test, then ``fn``; never in a graph, which would keep the count."""
    test, calls = 0, 0

    @functools.wraps(fn)
    def either(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        if torch.compiler.is_compiling():
            return fn(*args, **kwargs)
        if test != _test:
            test, calls = _test, 0
        if calls == CALLS:
            return fn(*args, **kwargs)
        calls += 1
        with _shapes_of_one_call():
            return strict(*args, **kwargs)

    return either
