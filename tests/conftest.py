"""Every test runs deterministically, on the CPU, without a network, with the shapes in annotations executed."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from tests.annotations import begin_test, execute_annotations
from tests.composing import compose_quickly, composing_in

gc.disable()  # while everything is imported; see pytest_runtestloop
execute_annotations()
compose_quickly()

from robustdet.processor import fast_processor  # noqa: E402  # nothing of robustdet before this


@pytest.fixture(autouse=True)
def deterministic() -> None:
    torch.manual_seed(0)
    fast_processor()
    begin_test()


@pytest.fixture(autouse=True, scope="module")
def memory_is_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """By a module's end: its `cache`d networks, and what `fast_processor` keeps, added up to 9 GB a process."""
    yield
    for value in vars(request.module).values():
        if hasattr(value, "cache_clear") and value.__module__ == request.module.__name__:
            value.cache_clear()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of several threads come in any order: what is compared to the bit needs one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data sets drawn for tests are; drawn once a session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def compose(tmp_path: Path, data_folder: Path) -> Callable[..., DictConfig]:
    """``compose("train", "experiment=shapes_std", …)``: a config that runs in seconds, in ``tmp_path``."""
    return composing_in(tmp_path, data_folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests, which lie beside this file, begin first: no process waits at the end for another's last."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """To look for garbage among a million imported objects, which stay, took a tenth of the suite's time."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write the golden curves anew instead of comparing")
    parser.addoption("--on", help="the device that tests/gpu compare with the CPU: cuda where there is one")
    parser.addoption("--compared", type=Path, help="a file that tests/gpu write their comparisons to, as JSON lines")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A test that did not run says nothing: the end of every run says how many did not, and what they wanted."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        terminalreporter.section(f"{sum(reasons.values())} tests DID NOT RUN", sep="!", yellow=True, bold=True)
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"{count:4d}  {reason}", yellow=True)
