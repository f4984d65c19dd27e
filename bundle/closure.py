"""Which distributions a machine needs beside what it has: pinned to the versions that are installed here."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from robustdet.errors import InputError

BUILDER = "setuptools"  # what makes an editable installation without a network


def asked(pyproject: Path, extras: Iterable[str]) -> list[str]:
    """The requirements of a checkout, with those of ``extras`` and of what builds it.

    Raises InputError for an extra that is none.
    """
    content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project, found = content["project"], list(content["project"]["dependencies"])
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            raise InputError(f"extra {extra!r}: expected one of {', '.join(project['optional-dependencies'])}")
        found += [one for one in project["optional-dependencies"][extra] if Requirement(one).name != project["name"]]
    return found + [one for one in content["build-system"]["requires"] if Requirement(one).name == BUILDER]


def target(python: str, machine: str) -> dict[str, str]:
    """What markers are asked about: Linux with this Python (as "3.12") on this kind of processor."""
    here: dict[str, str] = dict(default_environment())  # type: ignore[arg-type]
    linux = {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine}
    version = {"python_version": python, "python_full_version": f"{python}.0", "implementation_version": f"{python}.0"}
    return here | linux | version


def closure(
    requirements: Iterable[str],
    have: Iterable[str],
    environment: Mapping[str, str],
    installed: Callable[[str], Distribution] = distribution,
) -> dict[str, str]:
    """Name: version of all that is required, directly or not; what is in ``have`` is not entered.

    Raises InputError where the target needs what is not installed here, so that no version of it is known.
    """
    present, found = {canonicalize_name(name) for name in have}, dict[str, str]()
    waiting = [(Requirement(text), "", "the project") for text in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra, asker = waiting.pop()
        name = canonicalize_name(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra})
        if not needed or name in present:
            continue
        try:
            there = installed(name)
        except PackageNotFoundError as error:
            raise InputError(
                f"{asker} needs {requirement} on Python {environment['python_version']}, and it is not installed here: "
                "install it, so that its version is known, or say that the target has it (HAVE)"
            ) from error
        found[name] = there.version
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(text), wanted, name) for text in there.requires or ()]
    return dict(sorted(found.items()))
