"""Whether a record's attack is the one that its suite's name stands for: a table trusts that name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from robustdet.evaluation.checks import flag
from robustdet.evaluation.precision import EXPECTED
from robustdet.evaluation.record import Record
from robustdet.evaluation.worst_case import WORST_CASE

COMMAND_NAMES = ("surrogate", "patch_file", "patch_sha256")
Suites = Mapping[tuple[str, str], Mapping[str, Any]]


def with_differences(records: Sequence[Record], suites: Suites) -> list[Record]:
    """The records, those that differ from what they are called by flagged: tables print flags beside the number.

    ``suites`` holds, by suite and protocol, the fields of every attack as plain data; a suite that is not there cannot
    be judged. ``other_settings`` names what differs in an attack, and in a worst case which of its attacks do, failed
    or are missing; ``other_precision`` is raised by a number that was not measured in float32 without TF32.
    """
    together = defaultdict(list)
    for record in records:
        together[record.run].append(record)
    return [replace(one, flags=one.flags + _flags(one, together[one.run], suites)) for one in records]


def _flags(record: Record, group: Sequence[Record], suites: Suites) -> list[str]:
    flags = []
    suite = suites.get((record.run.suite, record.run.protocol))
    if record.attack == WORST_CASE:
        texts = _of_worst_case(record, group, suite)
    else:
        texts = [] if suite is None else _of_attack(record, suite)
    if texts:
        flags.append(flag("other_settings", "; ".join(texts)))
    if record.environment.precision != EXPECTED:
        measured = record.environment.precision or "an unknown precision"
        flags.append(flag("other_precision", f"measured in {measured} instead of {EXPECTED}"))
    return flags


def _of_attack(record: Record, suite: Mapping[str, Any]) -> list[str]:
    if record.attack not in suite:  # an attack that was added: it claims no name
        return []
    found = differences(record.attack_settings, suite[record.attack])
    return [f"{record.attack}: {', '.join(found)}"] if found else []


def _of_worst_case(record: Record, group: Sequence[Record], suite: Mapping[str, Any] | None) -> list[str]:
    texts = [f"{name} failed" for name in record.failed]
    if suite is None:
        return texts
    members = [one for one in group if one.attack in record.attack_settings["attacks"]]
    texts += [text for one in members for text in _of_attack(one, suite)]
    stages = record.attack_settings.get("stages", {})  # of a cascade, whose attacks have no records
    for name, fields in stages.items():
        found = differences(fields, suite[name]) if name in suite else []
        texts += [f"{name}: {', '.join(found)}"] if found else []
    accounted = stages.keys() | {one.attack for one in group} | record.failed.keys() | record.left_out.keys()
    return texts + [f"without {name}" for name in suite if name not in accounted]


def differences(found: Any, expected: Any, path: str = "") -> list[str]:
    """What of an attack's fields is not as expected, such as "steps 1 instead of 20".

    A surrogate and a patch's file are not looked at: a suite leaves it to the command to name one.
    """
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        keys = [key for key in dict.fromkeys([*expected, *found]) if key not in COMMAND_NAMES]
        nested = [differences(found.get(key), expected.get(key), f"{path}.{key}".lstrip(".")) for key in keys]
        return [text for texts in nested for text in texts]
    return [] if found == expected else [f"{path or 'fields'} {_short(found)} instead of {_short(expected)}"]


def _short(value: Any) -> str:
    return str(value.get("_target_", value)).rpartition(".")[2] if isinstance(value, Mapping) else str(value)
