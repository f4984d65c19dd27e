"""What only a GPU can show: collected where there is one, or with `--on cpu`, which compares the CPU's arithmetic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from robustdet.evaluation.precision import factors_of_10_bits
from tests.gpu.comparing import Comparisons

HERE = Path(__file__).parent
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS cannot be deterministic


def chosen(config: pytest.Config) -> str | None:
    return config.getoption("--on") or ("cuda" if torch.cuda.is_available() else None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if chosen(config) is None else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("gpu")
            item.add_marker(pytest.mark.filterwarnings("default"))  # what a GPU's libraries say is not known here


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(chosen(request.config))


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Comparisons:
    return Comparisons(request.config.getoption("--compared"))


@pytest.fixture(autouse=True)
def whole_factors() -> Iterator[None]:
    """Without TF32, which torch allows convolutions by default: its tolerance would hide every fault."""
    with factors_of_10_bits(False):
        yield
