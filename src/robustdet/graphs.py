"""Which methods of an object `torch.compile` makes one graph each of: its class names them."""

from __future__ import annotations

from types import MethodType
from typing import Any, ClassVar

import torch


class WholeGraphs:
    """Methods named in ``graphs`` take and give tensors alone, so that each is one graph, which CUDA can record too.

    Such a method looks at no value, draws no random number, brings nothing from the host and asks no other process:
    whatever of that is needed is done before it and handed in.
    """

    graphs: ClassVar[tuple[str, ...]] = ()

    def compile(self, *args: Any, **options: Any) -> None:
        """Each of them for itself, with these options of `torch.compile`, and for every shape anew.

        A graph that would break is an error. A copy of this object has them compiled too, as its own.
        """
        for name in self.graphs:
            whole = torch.compile(getattr(type(self), name), *args, fullgraph=True, dynamic=False, **options)
            setattr(self, name, MethodType(whole, self))
