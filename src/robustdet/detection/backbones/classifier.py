"""A backbone that is torchvision's classifier without its last layers and without its norms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from robustdet.detection.backbones.backbone import Backbone
from robustdet.detection.weights import tensors_in, without_counters
from robustdet.errors import InputError


class Classifier(Backbone):
    """Starts from a file of the classifier's weights, whose norms are folded as it is read."""

    head: str  # how the names of tensors begin that a detector has no use for

    @abstractmethod
    def network(self) -> nn.Module:
        """Torchvision's classifier with its norms, from random weights."""

    @abstractmethod
    def chain(self, network: nn.Module) -> list[nn.Module]:
        """Its layers as this backbone has them, without norms."""

    def load(self, path: Path) -> None:
        """Take the weights in ``path``: torchvision's names, or its tensors in its order under others.

        Raises InputError that names the file and the first tensor that differs, for a file of something else.
        """
        network = self.network()
        wanted = network.state_dict()
        network.load_state_dict(wanted | self._paired(tensors_in(path), wanted, path))
        self.layers.load_state_dict(nn.Sequential(*self.chain(network)).state_dict())

    def _paired(self, file: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        ours, theirs = self._needed(wanted), self._needed(file)
        if ours.keys() <= theirs.keys():
            theirs = {name: theirs[name] for name in ours}
        expected = [(name, _kind(name, tensor)) for name, tensor in ours.items()]
        found = [(name, _kind(name, tensor)) for name, tensor in theirs.items()]
        if [kind for _, kind in expected] == [kind for _, kind in found]:
            return dict(zip(ours, theirs.values(), strict=True))
        beyond = ("nothing", ("", ()))
        pairs = zip([*expected, beyond], [*found, *[beyond] * (1 + len(ours) - len(found))], strict=False)
        (name, (_, shape)), (other, (_, other_shape)) = next(pair for pair in pairs if pair[0][1] != pair[1][1])
        raise InputError(
            f"{path} holds no {type(self).__name__}: expected its {len(ours)} tensors under torchvision's names or in "
            f"their order, and found {len(theirs)}. The first that differs: {other} {list(other_shape)} in place of "
            f"{name} {list(shape)}"
        )

    def _needed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that maps are made of."""
        return {name: one for name, one in without_counters(state).items() if not name.startswith(self.head)}


def _kind(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return name.rpartition(".")[2], tuple(tensor.shape)
