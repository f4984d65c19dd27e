"""Which image comes when: an order that depends on (seed, epoch) alone, and a loader that resumes within an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from robustdet.data.dataset import Loaded
from robustdet.errors import RobustdetError, StateError
from robustdet.types import Batch


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, index), so that a worker process knows the epoch of every sample without being told.

    Lightning calls ``set_epoch``, and leaves a DistributedSampler in place when it runs on several devices. Each of
    ``num_replicas`` processes gets its share of the keys; with ``shuffle=False`` some images are repeated where the
    shares would differ in length, with ``shuffle=True`` some are left out of that epoch.
    """

    def __init__(
        self, dataset: Dataset[Any], shuffle: bool, seed: int = 0, num_replicas: int = 1, rank: int = 0
    ) -> None:
        # The base class adds the epoch to the seed, and torch uses 32 bits of the sum: neighbouring seeds would share
        # orders if they were not sent far apart.
        distant = int(np.random.SeedSequence(seed).generate_state(1)[0])
        super().__init__(dataset, num_replicas, rank, shuffle=shuffle, seed=distant, drop_last=shuffle)
        self.seen = (0, 0)  # (epoch, keys): so many keys of this epoch are left out, they came before a resume

    @property
    def skipped(self) -> int:
        """Keys that the next pass leaves out."""
        epoch, keys = self.seen
        return keys if epoch == self.epoch else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        indices, skipped = list(super().__iter__()), self.skipped
        self.seen = (0, 0)
        return iter([(self.epoch, index) for index in indices[skipped:]])


class InOrder(EpochSampler, SequentialSampler):  # type: ignore[misc]  # what it yields is EpochSampler's
    """Unshuffled, which Lightning sees by its type: it leaves such a sampler in place for ``overfit_batches``."""

    def __init__(self, dataset: Dataset[Any], seed: int = 0, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, False, seed, num_replicas, rank)


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over an ``EpochSampler`` whose position in the epoch Lightning keeps in its checkpoints.

    What counts is what has been handed out, not what workers have prepared.
    """

    sampler: EpochSampler
    batch_size: int
    delivered = 0  # batches of this epoch

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.delivered = self.sampler.skipped // self.batch_size
        try:
            for batch in super().__iter__():
                self.delivered += 1
                yield batch.batch() if isinstance(batch, Loaded) else batch  # pinned ones are batches already
        except RobustdetError as error:
            raise type(error)(_own_text(error)) from error
        except RuntimeError as error:
            if (told := of_dead_worker(error)) is not None:
                raise told from error
            raise

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.seen = (state["epoch"], state["delivered"] * self.batch_size)


def of_dead_worker(error: RuntimeError) -> StateError | None:
    """What to say of an error by which torch tells that a worker has died; None for any other.

    Torch raises it where a signal finds the main process: as it waits for a batch, or in the midst of an update.
    """
    if "DataLoader worker" not in str(error):
        return None
    return StateError(
        f"a process that reads images has died: {error}. Less data.num_workers need less memory; "
        "data.num_workers=0 reads in this process, and shows what is wrong"
    )


def _own_text(error: RobustdetError) -> str:
    """Without the traceback that torch puts before it in a worker."""
    return str(error).rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2].strip()
