"""What to answer when Hydra cannot make a config of a command line: the nearest right word for each wrong one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from robustdet.cli.composition import CONF, all_keys, arguments_of, composed, nearest, quoted

OPEN, CLOSE = "[{", "]}"


def is_bracketed(value: str) -> bool:
    return value[:1] in OPEN and value[-1:] in CLOSE and len(value) > 1


def as_text(argument: str) -> str:
    """A ``key=value`` whose value Hydra cannot read, with the value quoted: a path with blanks, `=`, `~`, … in it.

    Lists and dicts that cannot be read stay as they are.
    """
    key, given, value = argument.partition("=")
    if not given or argument.startswith("-") or is_bracketed(value) or _parsed(argument) is not None:
        return argument
    text = f"{key}={quoted(value)}"
    return argument if _parsed(text) is None else text


def braces_expanded(arguments: Iterable[str]) -> str:
    """What to say when the shell made several arguments of ``ckpt_path={A:…,B:…}``; else nothing."""
    found = [argument for argument in arguments if re.match(r"ckpt_path=[^/\\.:=]+:[^,]+$", argument)]
    if len(found) < 2:
        return ""
    inside = ",".join(argument.partition("=")[2] for argument in found)
    return f"ckpt_path is given {len(found)} times: the shell takes braces apart. Quote it: 'ckpt_path={{{inside}}}'"


def no_names(arguments: list[str]) -> str:
    """What to say where a group of conf/ is given numbers or null, which Hydra does not expect; else nothing."""
    for argument in get_args(arguments).overrides:
        override = _parsed(argument)
        group = override.key_or_group if override is not None and not override.is_delete() else ""
        if override is None or not group or not (CONF / group).is_dir() or override.is_sweep_override():
            continue
        value = override.value()
        if not all(
            isinstance(one, str | dict | QuotedString) for one in (value if isinstance(value, list) else [value])
        ):
            members = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
            return f"{argument}: expected one of {', '.join(members)}"
    return ""


def hint_for_overrides(arguments: list[str], root: str) -> str:
    """For each ``key=value`` of a command line that does not exist or cannot be read: the nearest right one, or how to
    write it.

    What a ``+`` adds need not exist, nor what is below a package that a group is added to (``+group@package=…``).
    """
    given = get_args(arguments)
    folders = [CONF, *([Path(given.config_dir).resolve()] if given.config_dir else [])]
    unread, wrong, more, chosen, added = [], [], [], [], []
    keys: list[tuple[str, str]] = []
    new: list[tuple[str, str]] = []
    for argument in given.overrides:
        override = _parsed(argument)
        if override is None:
            unread.append(_how_to_write(argument))
            continue
        key, package, value = override.key_or_group, override.package, override.value()
        if key.startswith(("hydra.", "hydra/")):
            continue
        plus = "+" if override.is_add() else ""
        if any((folder / key).is_dir() for folder in folders):
            members = {file.stem for folder in folders for file in (folder / key).glob("*.yaml")}
            missing = _missing(override, members)
            wrong += [f"no {key} is called '{name}'{nearest(name, members)}" for name in missing]
            right = [name for name in _names(override, members) if name in members]
            if right and not missing:
                chosen.append(f"{plus}{key}{'@' + package if package else ''}={right[0]}")
            added += [package] if plus and package else []
        else:
            (new if plus else keys).append((key, (override.input_line or "").partition("=")[2]))
            if not plus and key.rpartition(".")[0] == "suite.attacks" and (CONF / "attack" / f"{value}.yaml").is_file():
                more.append(f"to add an attack to the suite: +attack@{key}={value}")
    cfg = composed(root, chosen, map(str, folders[1:]))
    known = set(all_keys(cfg))
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    for key, value in keys:
        if key not in known and not any(key.startswith(f"{name}.") for name in added):
            wrong += _borrowed(key, value, cfg, known) or _unknown(key, cfg, known | groups)
    for key, value in new:
        wrong += _borrowed(key, value, cfg, known)
    return "\n".join([*unread, *wrong, *more])


def _parsed(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _names(override: Override, members: set[str]) -> list[str]:
    """The members of a group that an override chooses, one or several."""
    value = override.value()
    if isinstance(value, Glob):
        return sorted(name for name in members if _matches(value, name))
    if override.is_sweep_override():
        return [str(name).strip("'\"") for name in override.sweep_string_iterator()]
    values = value if isinstance(value, list) else [value]
    return [str(name) for name in values if name is not None]


def _missing(override: Override, members: set[str]) -> list[str]:
    if override.is_delete():
        return []
    names = _names(override, members)
    if isinstance(override.value(), Glob) and not names:
        return [override.input_line.partition("=")[2] if override.input_line else "glob"]
    return [name for name in names if name not in members]


def _matches(pattern: Glob, name: str) -> bool:
    return any(fnmatch(name, one) for one in pattern.include) and not any(fnmatch(name, x) for x in pattern.exclude)


def _borrowed(key: str, value: str, cfg: DictConfig, known: set[str]) -> list[str]:
    """What to say of a key below a node that is taken from elsewhere, which Hydra can neither change nor add there."""
    source = _source(key, cfg)
    return [f"'{key}' is taken from '{source}': {source}={value} sets both"] if source in known - {key} else []


def _source(key: str, cfg: DictConfig) -> str:
    """Where the value of ``key`` stands: ``protocol.cwa.steps``, of ``suite.attacks.cwa.steps``."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        owner, name = OmegaConf.select(cfg, ".".join(parts[: end - 1])) if end > 1 else cfg, parts[end - 1]
        if not isinstance(owner, DictConfig) or name not in owner:
            break
        text = str(owner._get_node(name)._value()) if OmegaConf.is_interpolation(owner, name) else ""  # type: ignore[union-attr]
        if found := re.fullmatch(r"\$\{(\w[\w.]*)\}", text):
            return _source(".".join([found[1], *parts[end:]]), cfg)
    return key


def _unknown(key: str, cfg: DictConfig, known: set[str]) -> list[str]:
    owner, _, last = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, owner) if owner in known else None
    target = node.get("_target_") if isinstance(node, DictConfig) and "_target_" in node else None
    if target is not None and last in (arguments_of(target) or ()):
        return [f"'{key}' is an argument of {target} that is not set here: add it with +{key}=…"]
    near = nearest(key, known)
    return [f"'{key}' is no key of this config{near}"] if near else []


def _how_to_write(argument: str) -> str:
    """With every text inside in double quotes, and the whole in single ones for the shell."""
    key, _, value = argument.partition("=")
    if not is_bracketed(value):
        return f"cannot read {argument}; expected key=value"
    parts = []
    for part in value[1:-1].split(","):
        label, colon, text = part.partition(":") if value[0] == "{" else ("", "", part)
        text = text.strip().strip("\"'")
        parts.append(f'{label}{colon}"{text}"')
    return f"cannot read {argument}: write '{key}={value[0]}{','.join(parts)}{value[-1]}'"
