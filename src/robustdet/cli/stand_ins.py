"""`suite.otherwise`: what a suite has for a detector that offers too little for some of its attacks."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from robustdet.types import Detector, offers


def with_stand_ins(suite: DictConfig, detector: Detector) -> DictConfig:
    """The suite with ``otherwise`` behind its attacks where ``detector`` has no raw scores to lend; else without it.

    The attacks that ask for such scores stay, to be named among those that are left out.
    """
    if suite.get("otherwise") is None:
        return suite
    fields: dict[str, Any] = OmegaConf.to_container(suite, resolve=True)  # type: ignore[assignment]
    more = fields.pop("otherwise")
    if offers(detector) != "scores":
        fields["attacks"] = fields["attacks"] | more
    return OmegaConf.create(fields)
