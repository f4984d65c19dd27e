"""Every test runs deterministically, on the CPU, without a network, with the shapes in annotations executed."""

import pytest
import torch


@pytest.fixture(autouse=True)
def deterministic() -> None:
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
