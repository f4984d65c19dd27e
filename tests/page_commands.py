"""The commands in the pages' fenced blocks, each checked as far as it can be without doing what it says.

A fence names its language. In ``sh`` blocks every line is a command (a backslash goes on with it), whose comment says
what it is for; ``# needs NETWORK`` (or another of ``NEEDS``) in it marks one that asks for what is not in a checkout.
In ``overrides`` blocks a line is one or more overrides, and after two blanks what they are for; `` | `` stands between
alternatives. ``bash`` blocks are followed word by word elsewhere.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from unittest.mock import patch

import yaml
from hydra._internal.utils import get_args
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

import benchmarks.__main__
import benchmarks.cluster
import benchmarks.gpu.__main__
import bundle.__main__
from robustdet.cli.composition import CONF, UnknownKeyError, check, composed, expand_homes
from robustdet.cli.hints import as_text

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"bash", "sh", "overrides", "python", "yaml", "text"}
NEEDS = {"network", "GPU", "SLURM", "Ray", "W&B"}
FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)
PROGRAMS = {"python", "make", "pip", "source", "git", "wandb", "ray", "srun", "sbatch", "cd"}
LIKE_A_COMMAND = re.compile(
    rf"^\s*(\$ )?([A-Z_]+=\S+ )*({'|'.join(sorted(PROGRAMS))}|robustdet-\w+) [\w.'-]", re.MULTILINE
)
ROOTS = ("train", "evaluate", "analyze", "predict", "export", "report", "study")


class NoSuchThingError(AssertionError):
    """A page says a command that would not work."""


@dataclass(frozen=True)
class Command:
    page: str
    text: str
    needs: frozenset[str] = frozenset()
    overrides_only: bool = False

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and content of every fenced block."""
    for _, language, content in FENCE.findall(page):
        yield language.strip(), content


def commands(name: str, page: str) -> Iterator[Command]:
    """Those of the ``sh`` and ``overrides`` blocks. NoSuchThingError for a command in a block of another kind."""
    for language, content in blocks(page):
        if language not in LANGUAGES:
            raise NoSuchThingError(
                f"{name}: a fence says {language!r}, expected one of {sorted(LANGUAGES)}:\n{content}"
            )
        if language not in {"sh", "bash"} and LIKE_A_COMMAND.search(content):
            raise NoSuchThingError(f"{name}: a command in a block that is not marked as sh:\n{content}")
        lines = content.replace("\\\n", " ").splitlines()
        if language == "overrides":
            for line in filter(str.strip, lines):
                yield Command(name, re.split(r"\s{2,}", line.strip())[0], overrides_only=True)
        if language == "sh":
            for line in lines:
                text, _, comment = line.partition(" # ")
                if text.strip() and not text.startswith("#"):
                    marks = re.findall(r"needs ((?:[\w&]+(?:, )?)+)", comment)
                    needs = frozenset(word for mark in marks for word in mark.split(", "))
                    yield Command(name, " ".join(text.split()), needs)


def settings() -> set[str]:
    """Every key that some yaml in `conf` sets, as the command line names it, and every group."""
    found = {str(folder.relative_to(CONF)) for folder in CONF.rglob("*") if folder.is_dir()}
    for file in CONF.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        group = "" if "@package _global_" in text or file.parent == CONF else str(file.parent.relative_to(CONF))
        found |= set(_keys_below(yaml.safe_load(text), group.replace(os.sep, ".")))
    return found


def _keys_below(node: object, path: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        if key != "defaults":
            child = f"{path}.{key}" if path else str(key)
            yield child
            yield from _keys_below(value, child)


def settings_in_text(page: str) -> Iterator[tuple[str, str]]:
    """Keys of the ``key=…`` in the page's inline code, with that code; but for those that a ``+`` or an ``@`` adds."""
    for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL)):
        if "(" not in code:  # a call, with arguments of its own
            for key in re.findall(r"(?<![\w./@+…-])([a-z][\w./]*)=(?![\s=])", code):
                yield re.sub(r"^suite\.attacks\.\w+\.", "attack.", key), code


def verify(command: Command) -> None:
    """Raises NoSuchThingError where it would fail for another reason than what it is marked to need."""
    if command.needs - NEEDS:
        raise NoSuchThingError(f"{command}: needs {sorted(command.needs - NEEDS)}, known are {sorted(NEEDS)}")
    try:
        if command.overrides_only:
            _verify_overrides(command)
        else:
            _verify_command(command)
    except (HydraException, OmegaConfBaseException, UnknownKeyError, SystemExit) as error:
        raise NoSuchThingError(f"{command}: {error}") from error


def _verify_command(command: Command) -> None:
    words = shlex.split(command.text)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "srun":
        _require(command, "SLURM")
        words = words[1:]
    if words[:2] == ["python", "-m"]:
        _verify_module(command, words[2], words[3:])
    elif words[0].startswith("robustdet-"):
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
        if words[0] not in scripts:
            raise NoSuchThingError(f"{command}: pyproject.toml has {sorted(scripts)}")
        compose(words[0].removeprefix("robustdet-"), words[1:], command.needs)
    elif words[0] in OTHERS:
        OTHERS[words[0]](command, words)
    else:
        raise NoSuchThingError(f"{command}: no test knows {words[0]!r}")


def _verify_module(command: Command, module: str, arguments: list[str]) -> None:
    parsers: dict[str, Callable[[], object]] = {
        "benchmarks": benchmarks.__main__.arguments,
        "benchmarks.cluster": benchmarks.cluster.arguments,
        "benchmarks.gpu": benchmarks.gpu.__main__.arguments,
        "bundle": bundle.__main__.arguments,
    }
    if module in parsers:
        with patch.object(sys, "argv", [module, *arguments]):
            parsers[module]()
    elif module == "pytest":
        missing = [
            path for path in arguments if path.startswith("tests") and not (ROOT / path.partition("::")[0]).exists()
        ]
        if missing:
            raise NoSuchThingError(f"{command}: {missing} are not there")
    elif module.startswith("src.") and (ROOT / "src" / f"{module[4:]}.py").is_file():
        compose(module[4:], arguments, command.needs)
    else:
        raise NoSuchThingError(f"{command}: there is no {module}")


def compose(root: str, arguments: list[str], needs: frozenset[str] = frozenset()) -> None:
    """Composes and checks what the command would, of a sweep the first job; a group's other choices must exist."""
    given = get_args([as_text(argument) for argument in arguments])
    overrides = given.overrides
    if "Ray" in needs:  # its launcher is not installed
        overrides = [one for one in overrides if not one.startswith(("launcher=", "hydra."))]
    overrides = [_first(override) for override in overrides]
    own = (
        []
        if root in ("report", "study") or any(one.startswith("paths.run=") for one in overrides)
        else ["paths.run=run"]
    )
    cfg = composed(root, [*own, *overrides], [])
    expand_homes(cfg)
    check(cfg, root)


def _first(override: str) -> str:
    """The override; of a sweep with its first value."""
    parsed = OverridesParser.create().parse_override(override)
    key, value = override.partition("=")[0], parsed.value()
    folder = CONF / parsed.key_or_group
    if isinstance(value, Glob):
        found = [name for name in _members(folder) if any(fnmatch(name, one) for one in value.include)]
        if not found:
            raise NoSuchThingError(f"{override}: conf/{parsed.key_or_group} has {_members(folder)}")
        return f"{key}={found[0]}"
    if not parsed.is_sweep_override():
        return override
    values = list(parsed.sweep_string_iterator())
    if folder.is_dir():
        _require_members(override, folder, values[1:])
    return f"{key}={values[0]}"


def _require_members(told: object, folder: Path, names: list[str]) -> None:
    if missing := sorted(set(names) - set(_members(folder))):
        raise NoSuchThingError(f"{told}: conf/{folder.name} has no {missing}, but {_members(folder)}")


def _members(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _verify_overrides(command: Command) -> None:
    """Some command takes the first alternative; the others are choices of the same group."""
    head, *others = command.text.split(" | ")
    overrides = shlex.split(head)
    group = CONF / overrides[-1].partition("=")[0]
    _require_members(command, group, [name for one in others for name in one.strip("[]").split(",")])
    failures = []
    for root in ROOTS:
        try:
            return compose(root, overrides)
        except (HydraException, OmegaConfBaseException, UnknownKeyError) as error:
            failures.append(f"{root}: {error}")
    raise NoSuchThingError(f"{command}: no command takes it\n" + "\n".join(failures))


def _require(command: Command, need: str) -> None:
    if need not in command.needs:
        raise NoSuchThingError(f"{command}: not marked with `# needs {need}`")


def _make(command: Command, words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words[1:]:
        name, given, _ = word.partition("=")
        pattern = rf"\$\({name}\)|^{name} \?=" if given else rf"^{name}:"
        if not re.search(pattern, makefile, re.MULTILINE):
            raise NoSuchThingError(f"{command}: the Makefile has no {word}")


def _pip(command: Command, words: list[str]) -> None:
    _require(command, "network")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = {extra for word in words for found in re.findall(r"\[([\w,]+)\]", word) for extra in found.split(",")}
    if asked - set(extras):
        raise NoSuchThingError(f"{command}: no extra {sorted(asked - set(extras))}, there are {sorted(extras)}")


def _wandb(command: Command, words: list[str]) -> None:
    _require(command, "W&B")
    for word in words:
        if word.endswith(".yaml") and not (ROOT / word).is_file():
            raise NoSuchThingError(f"{command}: {word} is not there")


def _require_installer(command: Command, script: str) -> None:
    if script != "bundle/install.sh":
        raise NoSuchThingError(f"{command}: no bundle has {script}")


OTHERS: dict[str, Callable[[Command, list[str]], None]] = {
    "make": _make,
    "pip": _pip,
    "wandb": _wandb,
    "git": lambda command, words: _require(command, "network"),
    "ray": lambda command, words: _require(command, "Ray"),
    "sbatch": lambda command, words: _require(command, "SLURM"),
    "cd": lambda command, words: None,
    "sh": lambda command, words: _require_installer(command, words[1]),
    "source": lambda command, words: None,
}
