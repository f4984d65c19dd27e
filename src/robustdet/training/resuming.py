"""Whether a file is the state of a training that this one can go on with: asked before anything is built on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustdet.detection.weights import require_fit
from robustdet.errors import InputError
from robustdet.files import read_tensors
from robustdet.interop.classes import require_same_classes
from robustdet.training.module import DetectionModule

PARTS = {
    "pytorch-lightning_version": str, "global_step": int, "state_dict": Mapping, "loops": Mapping,
    "optimizer_states": list, "lr_schedulers": list, "processes": list,
}  # fmt: skip


def require_resumable(file: Path | str, module: DetectionModule, averages: bool) -> None:
    """Raises InputError that says what ``file`` is instead, or what differs: tensors, classes, the optimiser.

    ``averages``: whether this training keeps an average of its weights beside them.
    """
    state = read_tensors(file)
    lacking = [key for key, kind in PARTS.items() if not isinstance(state.get(key), kind)]
    if lacking:
        raise InputError(
            f"ckpt_path={file} is no state of a training to go on with: it lacks {', '.join(lacking)}. To start a new "
            f"training from the weights in it: warm_start.ckpt_path={file}"
        )
    if "averaging_state" in state and not averages:
        raise InputError(
            f"ckpt_path={file} has weights averaged over updates, and this training averages none: go on with "
            f"callbacks=averaged, or start anew from the average with warm_start.ckpt_path={file}"
        )
    require_same_classes(state.get("classes"), module.classes, f"ckpt_path={file}", "of this training")
    require_fit(state["state_dict"], module.state_dict(), f"ckpt_path={file}")
    theirs, ours = (_kinds(one) for one in (state["optimizer_states"][:1], [module.optimizer().state_dict()]))
    if theirs != ours:
        raise InputError(
            f"ckpt_path={file} was trained with an optimiser that has {theirs}, and this one's has {ours}: leave "
            f"optimizer as it was, or start anew from its weights with warm_start.ckpt_path={file}"
        )


def _kinds(states: list[Any]) -> str:
    """What an optimiser keeps for its parameters: tells an SGD from an Adam."""
    groups = [group for state in states if isinstance(state, Mapping) for group in state.get("param_groups", [])]
    names = {str(name) for group in groups if isinstance(group, Mapping) for name in group}
    return ", ".join(sorted(names - {"initial_lr", "params"})) or "nothing"
