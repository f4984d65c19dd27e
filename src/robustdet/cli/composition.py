"""What the commands share: where `conf/` is, and the promise that a misspelt key anywhere is an error.

Hydra refuses a command-line override of a key that does not exist, but a yaml may introduce any key it likes. So the
composed config is checked: the keys of a node with a ``_target_`` must be arguments of that target, the keys of any
other node must be listed in ``PLAIN``.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from robustdet.runs.run import ENDED

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
    names = (f"{job}_{command}" + (f"_{number}" if number > 1 else "") for number in itertools.count(1))
    return next(str(Path(parent) / name) for name in names if not (Path(parent) / name / ENDED).exists())


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
HYDRA_WORDS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}

# The nodes that are no object's arguments, and the keys they may have; "*" = names that the user chooses.
COMMON = {
    "name", "seed", "keep_memory", "ckpt_path", "paths", "protocol", "data", "model", "attack", "loss", "method",
    "optimizer", "schedule", "scheduler", "trainer", "logger", "callbacks",
}  # fmt: skip
ROOTS = {
    "train": COMMON | {"warm_start", "validation", "objectives", "larger_batch"},
    "evaluate": COMMON | {"warm_start", "validation", "suite", "pictures", "fresh"},
    "analyze": COMMON | {"warm_start", "validation", "analysis"},
    "predict": COMMON | {"warm_start", "validation", "image", "threshold"},
    "report": {"folders", "output", "title"},
}
PLAIN: dict[str, set[str]] = {
    "paths": {"outputs", "data", "run", "study"},
    "warm_start": {"experiment", "overrides", "ckpt_path"},
    "validation": {"attack", "max_images"},
    "protocol": {
        "name", "cwa", "dag", "channel_means", "aid_input_filter", "kernel_perturbation", "log_variance_max",
        "candidates_per_class", "max_detections", "replay_step_sizes", "adversary_choice", "triplets", "crossed_branch",
        "metrics", "nan_to_zero", "unused_coco_classes", "augmentation", "voc_train_years", "skip_unannotated_images",
        "gradient_clip_val",
    },
    "protocol.metrics": {"voc", "area", "coco"},
    "suite": {"name", "attacks", "max_images", "tabled", "ladder", "cascade"},
    "suite.attacks": {"*"},
    "suite.ladder": {"attacks", "steps", "step_sizes", "step_size_elsewhere", "starts"},
    "suite.ladder.attacks": {"*"},
    "suite.ladder.starts": {"*"},
    "callbacks": {"*"},
}  # fmt: skip


class UnknownKeyError(ValueError):
    """A key in the config that nothing reads."""


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean 'gamma'?)`` or nothing."""
    close = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _arguments(target: str) -> set[str] | None:
    """Names of the arguments of ``target``, or None when it takes any. ``**kwargs`` of a class go on to its bases."""
    found = get_object(target)
    names: set[str] = set()
    parts = [vars(cls).get("__init__", object.__init__) for cls in found.__mro__] if inspect.isclass(found) else [found]
    for part in parts:
        parameters = inspect.signature(part).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return names
    return None


def _check(node: Any, path: str, allowed: set[str] | None) -> None:
    if isinstance(node, ListConfig):
        for index in range(len(node)):
            if not OmegaConf.is_interpolation(node, index):
                _check(node[index], f"{path}[{index}]", None)
        return
    if not isinstance(node, DictConfig) or node._is_none():
        return
    target = node.get("_target_") if "_target_" in node else None
    if target is not None:
        try:
            allowed = _arguments(target)
        except Exception as error:
            raise UnknownKeyError(f"{path}._target_: {target!r} cannot be found: {error}") from error
    if allowed is not None and "*" not in allowed:
        for key in map(str, node):
            if key not in allowed | (HYDRA_WORDS if target else set()):
                owner = f" of {target}" if target else ""
                raise UnknownKeyError(
                    f"unknown key '{path}{'.' if path else ''}{key}'{owner}{nearest(key, allowed)}; "
                    f"known: {', '.join(sorted(allowed))}"
                )
    for key in map(str, node):
        if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
            child = f"{path}.{key}" if path else key
            _check(node[key], child, PLAIN.get(child))


def check(cfg: DictConfig, root: str) -> None:
    """Raises ``UnknownKeyError`` for the first key of ``cfg`` that nothing reads, naming the nearest right one."""
    _check(cfg, "", ROOTS[root])
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except InterpolationKeyError as error:
        wanted = re.search(r"'([^']+)' not found", str(error))
        hint = nearest(wanted.group(1), _all_keys(cfg)) if wanted else ""
        raise UnknownKeyError(f"{error}{hint}") from error
    del plain


def _all_keys(node: Any, path: str = "") -> list[str]:
    found = []
    if isinstance(node, DictConfig) and not node._is_none():
        for key in map(str, node):
            child = f"{path}.{key}" if path else key
            found.append(child)
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                found += _all_keys(node[key], child)
    return found


def added_folders() -> list[str]:
    """Folders of a user's own yamls that this command was given: `--config-dir`, `hydra.searchpath`."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [one.path for one in sources if one.schema == "file" and one.provider not in ("main", "hydra", "schema")]


def composed(root: str, overrides: Iterable[str]) -> DictConfig:
    """``conf/<root>.yaml`` with these overrides, inside a command too, whose own composition stays as it is."""
    overrides = [*overrides]
    if added := added_folders():
        overrides.append("hydra.searchpath=[" + ",".join(f"'file://{path}'" for path in added) + "]")
    state = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(root, list(overrides))
    finally:
        GlobalHydra.instance().clear()
        if state is not None:
            GlobalHydra.instance().hydra = state


def hint_for_overrides(arguments: list[str], root: str) -> str:
    """Nearest right key or group member for each ``key=value`` of a command line that does not exist.

    What a ``+`` adds need not exist, nor what is below a package that a group is added to (``+group@package=…``).
    """
    wrong: list[tuple[str, str, set[str]]] = []
    keys: list[str] = []
    chosen: list[str] = []
    added: list[str] = []
    more: list[str] = []
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        if key.startswith(("-", "hydra.", "hydra/")):
            continue
        group, _, package = key.partition("@")
        if group in groups:
            members = {file.stem for file in (CONF / group).glob("*.yaml")}
            values = [v for v in value.split(",") if v]
            wrong += [(group, v, members) for v in values if v not in members]
            if values and key == group and members.issuperset(values) and not argument.startswith(("+", "~")):
                chosen.append(f"{group}={values[0]}")
            if argument.startswith("+") and package:
                added.append(package)
        elif not argument.startswith("+"):
            keys.append(key)
            owner = key.rpartition(".")[0]
            if owner == "suite.attacks" and (CONF / "attack" / f"{value}.yaml").is_file():
                more.append(f"to add an attack to the suite: +attack@{key}={value}")
    known = set(_all_keys(composed(root, chosen)))
    missing = [key for key in keys if key not in known and not any(key.startswith(f"{name}.") for name in added)]
    return "\n".join(
        [f"no {group} is called '{value}'{nearest(value, members)}" for group, value, members in wrong]
        + [f"'{key}' is no key of this config{near}" for key in missing if (near := nearest(key, known | groups))]
        + more
    )


def launcher(root: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Decorates a command: compose ``conf/<root>.yaml``, check its keys, run; a wrong one is answered by the right."""

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        def checked(cfg: DictConfig) -> Any:
            check(cfg, root)
            return task(cfg)

        main = hydra.main(config_path=str(CONF), config_name=root, version_base="1.3")(checked)

        def command() -> Any:
            try:
                return main()
            except SystemExit as stop:
                if stop.code not in (None, 0):
                    try:
                        hint = hint_for_overrides(sys.argv[1:], root)
                    except (HydraException, OmegaConfBaseException):
                        hint = ""
                    if hint:
                        print(hint, file=sys.stderr)
                raise

        return command

    return decorate
