"""What the commands share: where `conf/` is, and the promise that a misspelt key or a wrong value anywhere is an error.

Hydra refuses a command-line override of a key that does not exist, but a yaml may introduce any key it likes, and any
value. So the composed config is checked: the keys of a node with a ``_target_`` must be arguments of that target, the
keys of any other node must be listed in ``PLAIN``; values are checked as ``robustdet.cli.values`` says.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError

from robustdet.cli.values import KINDS, kind_of, objection
from robustdet.errors import InputError
from robustdet.interop.onnx_file import side_of
from robustdet.runs.run import behind_ended

PACKAGE = Path(__file__).resolve().parent.parent
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent.parent  # an installed package, or the repository
CONF = HOME / "conf"


def run_folder(parent: str) -> str:
    """A folder of its own below ``parent`` for each run: the time to the microsecond.

    A SLURM job's has its number and a digest of its command: the job finds it when it is started again, other
    commands of one allocation do not. Behind a finished run of the same command the next number is taken.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return str(Path(parent) / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}")
    command = hashlib.sha256("\n".join(sys.argv[1:]).encode()).hexdigest()[:6]
    return str(behind_ended(Path(parent) / f"{job}_{command}"))


def onnx_side(*, _parent_: DictConfig) -> int:
    """Pixels of a side that the ONNX file of a model takes, or 640."""
    function = _parent_.function
    return (None if OmegaConf.is_missing(function, "file") else side_of(function.file)) or 640


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("onnx_side", onnx_side, replace=True)
OVERRIDES = {"overrides", "trainings"}  # keys that hold overrides of other commands
HYDRA_WORDS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}

# The nodes that are no object's arguments, and the keys they may have; "*" = names that the user chooses.
COMMON = {
    "name", "task_name", "tags", "seed", "keep_memory", "ckpt_path", "paths", "protocol", "data", "model", "attack",
    "loss", "method", "optimizer", "schedule", "scheduler", "trainer", "logger", "callbacks",
}  # fmt: skip
ROOTS = {
    "train": COMMON | {"speed", "warm_start", "validation", "objectives", "larger_batch"},
    "evaluate": COMMON | {"warm_start", "validation", "suite", "metric", "pictures", "fresh", "results"},
    "analyze": COMMON | {"warm_start", "validation", "analysis", "metric"},
    "predict": COMMON | {"warm_start", "validation", "image", "threshold"},
    "export": COMMON | {"warm_start", "validation", "output", "format"},
    "report": {"folders", "output", "title"},
    "study": {"study", "paths", "data_root", "trainings", "side_by_side", "dry"},
}
PLAIN: dict[str, set[str]] = {
    "paths": {"outputs", "data", "run", "study"},
    "warm_start": {"experiment", "overrides", "ckpt_path"},
    "validation": {"attack", "max_images", "clean_share"},
    "protocol": {
        "name", "cwa", "dag", "channel_means", "aid_input_filter", "kernel_perturbation", "log_variance_max",
        "candidates_per_class", "max_detections", "replay_step_sizes", "adversary_choice", "triplets", "crossed_branch",
        "metrics", "nan_to_zero", "unused_coco_classes", "augmentation", "voc_train_years", "skip_unannotated_images",
        "gradient_clip_val",
    },
    "protocol.metrics": {"voc", "area", "coco"},
    "speed": {"name", "precision", "channels_last", "compile", "fused", "adversarially_aware"},
    "suite": {"name", "attacks", "otherwise", "max_images", "tabled", "ladder", "cascade", "epsilon"},
    "suite.attacks": {"*"},
    "suite.otherwise": {"*"},
    "suite.ladder": {"attacks", "steps", "step_sizes", "step_size_elsewhere", "starts"},
    "suite.ladder.attacks": {"*"},
    "suite.ladder.starts": {"*"},
    "callbacks": {"*"},
    "study": {"name", "title", "results", "trainings", "evaluations"},
    "study.trainings": {"*"},
    "study.evaluations": {"*"},
}  # fmt: skip


class UnknownKeyError(InputError):
    """Keys in the config that nothing reads, and values that cannot be meant: a line each."""


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'gamma'?)`` or nothing."""
    close = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def arguments_of(target: str) -> dict[str, Any] | None:
    """The arguments of ``target`` and their kinds, or None when it takes any.

    ``**kwargs`` of a class go on to its bases.
    """
    found = get_object(target)
    kinds: dict[str, Any] = {}
    parts = [vars(cls).get("__init__", object.__init__) for cls in found.__mro__] if inspect.isclass(found) else [found]
    for part in parts:
        parameters = inspect.signature(part).parameters.values()
        kinds = {one.name: kind_of(part, one) for one in parameters if one.name != "self"} | kinds
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return kinds
    return None


def _keys(node: DictConfig) -> Iterator[str]:
    """Those that have a value of their own: no interpolation, not missing."""
    for key in map(str, node):
        if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
            yield key


def _strangers(node: Any, path: str, allowed: set[str] | None) -> Iterator[str]:
    """What to say of every key at and below ``node`` that nothing reads."""
    if isinstance(node, ListConfig):
        for index in range(len(node)):
            if not OmegaConf.is_interpolation(node, index):
                yield from _strangers(node[index], f"{path}[{index}]", None)
        return
    if not isinstance(node, DictConfig) or node._is_none():
        return
    target = node.get("_target_") if "_target_" in node else None
    if target is not None:
        try:
            arguments = arguments_of(target)
        except Exception as error:
            yield f"{path}._target_: {target!r} cannot be found: {error}"
            return
        allowed = None if arguments is None else set(arguments)
    if allowed is not None and "*" not in allowed:
        for key in map(str, node):
            if key not in allowed | (HYDRA_WORDS if target else set()):
                owner = f" of {target}" if target else ""
                yield (
                    f"unknown key '{path}{'.' if path else ''}{key}'{owner}{nearest(key, allowed)}; "
                    f"known: {', '.join(sorted(allowed))}"
                )
    for key in _keys(node):
        child = f"{path}.{key}" if path else key
        yield from _strangers(node[key], child, PLAIN.get(child))


def _values(node: Any, plain: Any, path: str) -> Iterator[tuple[str, Any, Any, str]]:
    """Key, value, kind, and the interpolation that it comes from (or nothing), of everything that has a kind.

    ``plain`` is ``node`` resolved; what is below an interpolated node is looked at where it stands.
    """
    if isinstance(node, ListConfig):
        for index, value in enumerate(plain or []):
            if not OmegaConf.is_interpolation(node, index):
                yield from _values(node[index], value, f"{path}[{index}]")
    if not isinstance(node, DictConfig) or node._is_none():
        return
    kinds = arguments_of(node["_target_"]) or {} if "_target_" in node else {}
    for key, value in plain.items():
        child = f"{path}.{key}" if path else str(key)
        source = str(node._get_node(key)._value()) if OmegaConf.is_interpolation(node, key) else ""  # type: ignore[union-attr]
        if key in HYDRA_WORDS or OmegaConf.is_missing(node, key):
            continue
        if key in kinds or child in KINDS:
            yield child, value, KINDS.get(child, kinds.get(key)), source
        if not source:
            yield from _values(node[key], value, child)


def check(cfg: DictConfig, root: str) -> None:
    """Raises ``UnknownKeyError`` with a line for each key of ``cfg`` that nothing reads, naming the nearest right one,
    and for each value of another kind or out of range.
    """
    wrong = list(_strangers(cfg, "", ROOTS[root]))
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except InterpolationKeyError as error:
        wanted = re.search(r"'([^']+)' not found", str(error))
        hint = nearest(wanted.group(1), all_keys(cfg)) if wanted else ""
        if wanted and wanted.group(1) == "model.input_size":
            hint = ". A model's yaml says it: in how many pixels a side images are read, as in `input_size: 416`"
        raise UnknownKeyError("\n".join([*wrong, f"{error}{hint}"])) from error
    except InterpolationResolutionError as error:  # one that leads back to itself, say
        raise UnknownKeyError("\n".join([*wrong, f"{error.full_key or error.key}: {error.msg or error}"])) from error
    if not wrong:
        bad = [
            (key.rpartition(".")[2], value, source, text)
            for key, value, kind, source in _values(cfg, plain, "")
            if (text := objection(key, value, kind)) is not None
        ]
        told = [(name, value) for name, value, source, _ in bad if not source]  # each once, where it stands
        wrong = [
            text
            for _, value, source, text in bad
            if not (source and any(name in source and value == other for name, other in told))
        ]
    if wrong:
        raise UnknownKeyError("\n".join(wrong))


def all_keys(node: Any, path: str = "") -> list[str]:
    found = []
    if isinstance(node, DictConfig) and not node._is_none():
        for key in map(str, node):
            child = f"{path}.{key}" if path else key
            found.append(child)
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                found += all_keys(node[key], child)
    return found


def without_place(cfg: DictConfig) -> DictConfig:
    """A copy without Hydra's own part and without the run's folder, which is not known before a run begins."""
    bare = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    bare.paths.run = None
    return bare


def expand_homes(node: Any) -> None:
    """Makes the home folder of every ``~`` that a text below ``node`` begins with, in place.

    Not in lists of overrides, where ``~key`` takes a key out.
    """
    keys: Iterable[Any] = range(len(node)) if isinstance(node, ListConfig) else list(_keys(node))
    for key in keys:
        if key in OVERRIDES or OmegaConf.is_interpolation(node, key) or node[key] is None or key == "hydra":
            continue
        if OmegaConf.is_config(node[key]):
            expand_homes(node[key])
        elif isinstance(node[key], str) and node[key].startswith("~"):
            text = node[key]
            node[key] = os.path.expanduser(text)
            if node[key].startswith("~"):
                raise InputError(f"{key}={text}: that home folder is not known. Set HOME, or write the path out")


def more_folders() -> list[str]:
    """Where this command was told (``--config-dir``) to look for configs beside `conf/`."""
    state = GlobalHydra.instance().hydra
    paths = state.config_loader.get_search_path().get_path() if state is not None else []
    return [element.path.removeprefix("file://") for element in paths if element.provider == "command-line"]


def quoted(text: str) -> str:
    """``text`` as Hydra's command line takes it, whatever is in it."""
    inside = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{inside}'"


def composed(root: str, overrides: Iterable[str], folders: Iterable[str] | None = None) -> DictConfig:
    """``conf/<root>.yaml`` with these overrides, inside a command too, whose own composition stays as it is.

    What `conf/` does not have is looked for in ``folders``, by default in those of this command.
    """
    searched = [f"file://{folder}" for folder in (more_folders() if folders is None else folders)]
    searchpath = [f"hydra.searchpath=[{','.join(map(quoted, searched))}]"] if searched else []
    state = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(root, [*searchpath, *overrides])
    finally:
        GlobalHydra.instance().clear()
        if state is not None:
            GlobalHydra.instance().hydra = state
