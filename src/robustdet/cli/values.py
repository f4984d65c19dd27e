"""Whether a value in a config is of the right kind and in range, before anything is made from it.

The kinds are those of the annotated arguments of each ``_target_``; ``KINDS`` has them for the keys that are no
object's arguments, ``RANGES`` says how small and how large a number may be. An annotation may carry the function that
reads the value, which raises ValueError, and what is expected in words: ``Annotated[str, pixel_fraction, "…"]``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

KINDS: dict[str, Any] = {
    "name": str, "task_name": str, "tags": list[str] | None, "seed": int, "keep_memory": bool, "larger_batch": int,
    "validation.max_images": int | None,
    "validation.clean_share": float, "objectives": list[str], "suite.max_images": int | None,
    "warm_start.experiment": str | None, "warm_start.overrides": list[str], "warm_start.ckpt_path": str | None,
    "suite.name": str, "suite.tabled": bool, "suite.cascade": bool, "suite.ladder.steps": int,
    "suite.epsilon": str | float | None,
    "suite.attacks.transfer.surrogate.ckpt_path": str | None,  # null: transfer is left out
    "format": Literal["onnx", "torch_export"], "results": list[Literal["coco", "voc"]],
    "pictures": int, "fresh": bool, "threshold": float, "image": str | list[str],
    "paths.outputs": str, "paths.data": str, "paths.run": str | None, "paths.study": str,
    "folders": list[str], "output": str, "title": str, "data_root": str | None, "trainings": list[str],
    "side_by_side": int, "dry": bool,
}  # fmt: skip

# By the end of a key, the longest that fits: batch_size is data.batch_size and analysis.batch_size.
COUNT, NOT_NEGATIVE, SHARE = (1, math.inf), (0, math.inf), (0, 1)
RANGES: dict[str, tuple[float | int, float | int]] = {
    **dict.fromkeys(
        ["batch_size", "eval_batch_size", "image_size", "input_size", "max_images", "num_images", "steps", "queries",
         "updates_per_source", "others", "num_kernels", "candidates_per_class", "max_detections", "quality",
         "trainer.num_nodes", "trainer.log_every_n_steps", "trainer.accumulate_grad_batches",
         "trainer.check_val_every_n_epoch", "size", "train", "test", "larger_batch", "side_by_side"],
        COUNT),
    **dict.fromkeys(
        ["pictures", "num_workers", "lr", "backbone_lr", "weight_decay", "warmup_steps", "epsilon_warmup", "skip",
         "picture", "images", "kernel", "val",
         "loss.gamma", "loss.beta", "loss.a", "loss.b", "loss.c", "trainer.gradient_clip_val",
         "trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.limit_test_batches",
         "trainer.val_check_interval", "trainer.overfit_batches"],
        NOT_NEGATIVE),
    **dict.fromkeys(
        ["threshold", "score_threshold", "nms_threshold", "val_share", "p", "momentum", "step_share",
         "clean_share", "decay"],
        SHARE),
    "objective.threshold": (-math.inf, math.inf),  # of a logit
    "seed": (0, 2**32 - 1),
    **dict.fromkeys(
        ["trainer.max_steps", "trainer.max_epochs", "trainer.num_sanity_val_steps", "save_top_k"], (-1, math.inf)),
}  # fmt: skip
SCALARS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}


def kind_of(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation of ``function``'s parameter, ``Any`` where it has none or one that cannot be read."""
    kind = Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation
    if isinstance(kind, str):
        try:
            kind = eval(kind, getattr(inspect.unwrap(function), "__globals__", {}))
        except Exception:  # names that are there for type checkers alone
            return Any
    return Union[kind, None] if parameter.default is None else kind  # noqa: UP007  kind may be no class


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value (as yaml has them) can be given where ``kind`` is expected; True where nobody can tell."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any or (isinstance(value, dict) and not (kind in SCALARS or kind is NoneType or origin)):
        return True  # a dict becomes an object
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inside)
    if origin is Annotated:
        return fits(value, inside[0]) and all(_reads(read, value) for read in inside[1:] if callable(read))
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inside)
    if kind is None or kind is NoneType:
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, str)
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return _holds(value, origin, inside)
    if origin is not None:  # a function, say, which is a node with a _target_
        return isinstance(value, dict)
    try:
        return isinstance(value, kind)
    except TypeError:  # protocols
        return False


def _holds(value: Any, origin: type, inside: tuple[Any, ...]) -> bool:
    if issubclass(origin, Mapping):
        return isinstance(value, dict)
    if not isinstance(value, list):
        return isinstance(value, dict) and "_target_" in value
    if origin is tuple and ... not in inside:
        return len(value) == len(inside) and all(map(fits, value, inside))
    return all(fits(one, inside[0]) for one in value) if inside else True


def _reads(read: Callable[[Any], Any], value: Any) -> bool:
    try:
        read(value)
    except ValueError:
        return False
    return True


def told(kind: Any) -> str:
    """``kind`` in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        words = dict.fromkeys(told(one) for one in inside if not (one is int and float in inside))
        return " or ".join(words)
    if origin is Annotated:
        return next((word for word in inside[1:] if isinstance(word, str)), told(inside[0]))
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if kind is None or kind is NoneType:
        return "null"
    if origin is not None and inspect.isclass(origin) and issubclass(origin, Iterable):
        if issubclass(origin, Mapping):
            return "values by name"
        each = inside if origin is tuple and ... not in inside else inside[:1]
        return f"a list of {' and '.join(dict.fromkeys(map(told, each)))}" if each else "a list"
    return SCALARS.get(kind) or str(getattr(kind, "__name__", kind))


def range_of(key: str) -> tuple[float | int, float | int]:
    """That of the longest end of ``key`` in ``RANGES``."""
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((RANGES[end] for end in ends if end in RANGES), (-math.inf, math.inf))


def objection(key: str, value: Any, kind: Any) -> str | None:
    """What is wrong with ``value``, and what is expected; None when nothing is."""
    low, high = range_of(key)
    limits = f" from {low} to {high}" if math.isfinite(high) else f", {low} or more" if math.isfinite(low) else ""
    numbers = [one for one in (value if isinstance(value, list) else [value]) if fits(one, float)]
    if fits(value, kind) and all(low <= one <= high for one in numbers):
        return None
    text = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
    return f"{key}={text}: expected {'a number' if kind is Any else told(kind)}{limits}"
