"""A learning rate of its own for the backbone: what was trained before should move less than what starts at random."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer


class PartRates:
    """Makes an optimiser in whose first group the parameters of ``model.backbone`` are, in its second all others.

    Where the network is somebody else's, that is ``model.network.backbone``.

    Args:
        optimizer: partial; takes the groups.
        lr: learning rate of all but the backbone.
        backbone_lr: the backbone's. A scheduler scales both by the same factor.
    """

    def __init__(self, optimizer: Callable[..., Optimizer], lr: float, backbone_lr: float) -> None:
        self.optimizer = optimizer
        self.lr, self.backbone_lr = lr, backbone_lr

    def __call__(self, model: nn.Module) -> Optimizer:
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in model.named_parameters():
            parts[name.removeprefix("network.").startswith("backbone.")].append(parameter)
        rates = {True: self.backbone_lr, False: self.lr}
        groups = [{"params": parameters, "lr": rates[part]} for part, parameters in parts.items() if parameters]
        return self.optimizer(groups, lr=self.lr)
