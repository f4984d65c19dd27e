"""A share of `make fuzz`."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzzing import KINDS, fuzz
from tests.fuzz.kinds import Kind

SLOW = {"command line", "run: config.yaml"}  # each input composes a config


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damaged_files_are_read_or_refused(kind: Kind):
    tally = fuzz(kind, 10 if kind.name in SLOW else 60, seed=1)
    assert not tally.failures
    assert tally.read + tally.refused == (10 if kind.name in SLOW else 60)
