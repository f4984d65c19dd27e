"""Messages of libraries that tell a user of these commands nothing; everything else comes through."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # pytorch-lightning 2.6 under torch 2.15
    r".*does not have many workers",  # the drawn data is in memory: conf/data/shapes.yaml asks for none
    r"Checkpoint directory .* exists and is not empty",  # a run that goes on does so in its folder
    r"The number of training batches .* is smaller than the logging interval",
    r"Using `DistributedSampler` with the dataloaders",  # what a sampler repeats is left out: training/testing.py
    r"Found \d+ module\(s\) in eval mode",  # norms that are frozen: interop/torchvision_api.py
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",  # these values are the same in every process already
)
LOGGED = ("💡 Tip", "`weights_only` was not set")
SPEAKERS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.rank_zero",
    "pytorch_lightning.trainer.connectors.checkpoint_connector",
)


def quieten() -> None:
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
    for name in SPEAKERS:
        logging.getLogger(name).addFilter(_told)


@contextmanager
def silence_of_lightning() -> Iterator[None]:
    """Neither messages nor warnings of Lightning inside: of a trainer that is only tried, it says them again later."""
    speakers = [logging.getLogger(name) for name in SPEAKERS]
    before = [speaker.disabled for speaker in speakers]
    try:
        for speaker in speakers:
            speaker.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for speaker, disabled in zip(speakers, before, strict=True):
            speaker.disabled = disabled


def _told(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(LOGGED)
