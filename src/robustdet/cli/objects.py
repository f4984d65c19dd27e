"""An evaluation of objects, a detector and data that somebody has made, in the words of a command's config."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import open_dict
from torch import nn

from robustdet.cli.building import Experiment, prepare
from robustdet.cli.composition import check, composed
from robustdet.cli.evaluate import attacked, with_its_suite
from robustdet.cli.subjects import LEARNT, Trained, as_trained
from robustdet.errors import InputError
from robustdet.evaluation.record import Record
from robustdet.interop.torch_dataset import TorchData

PLAIN = (bool, int, float, str, type(None))
GIVEN = {
    "data": "nothing reads this, for the data are given as an object; batch_size= says how many images go together",
    **dict.fromkeys(("model", "ckpt_path"), "nothing reads this, for the detector is given as an object"),
}


def require_of_others(overrides: Sequence[str], given: Mapping[str, str]) -> None:
    """Raises InputError for the first override of a part of the config that objects stand for; ``given`` says of each
    such part why.
    """
    for override in overrides:
        group, _, package = override.lstrip("+~").partition("=")[0].partition("@")
        part = (package or group).partition(".")[0].partition("/")[0]
        if part in given:
            raise InputError(f"{override}: {given[part]}")


def evaluate_objects(
    name: str, model: nn.Module, data: Any, origin: Trained | None, overrides: Sequence[str]
) -> list[Record]:
    """`robustdet.cli.evaluate.evaluate` with ``model`` on ``data``, a data module; ``origin`` is where a checkpoint's
    detector comes from. Files go to `<outputs>/<name>/<data>` unless ``overrides`` have `paths.run`.
    """
    require_of_others(overrides, GIVEN)
    cfg = composed("evaluate", overrides)
    check(cfg, "evaluate")
    if cfg.results and isinstance(data, TorchData):
        raise InputError(f"results={cfg.results}: they are of a data set's files, and a torch data set names none")
    prepare(cfg)
    with open_dict(cfg):
        if origin is None:
            origin = Trained(None, cfg, own=False)
            cfg.model = {
                "_target_": f"{type(model).__module__}.{type(model).__qualname__}",
                "name": name,
                "input_size": model.input_size,
                "settings": settings_of(model),
            }
        elif not origin.own:
            for key in LEARNT:
                cfg[key] = origin.cfg[key]
        cfg.ckpt_path = None if origin.path is None else str(origin.path)
        cfg = as_trained(cfg, origin, overrides)
        cfg.data = {"name": data.name}
        cfg.paths.run = cfg.paths.run or str(Path(cfg.paths.outputs) / name / data.name)
    device = next((parameter.device for parameter in model.parameters()), None)
    try:
        return attacked(with_its_suite(cfg, overrides), origin, Experiment(data, model))
    finally:
        if device is not None:
            model.to(device)


def settings_of(model: nn.Module) -> str:
    """A digest of the plain values that its modules hold (thresholds, sizes), which neither its weights nor its code
    show: another one is another detector.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        values = {key: value for key, value in vars(module).items() if _is_plain(value) and key != "training"}
        digest.update(f"{name} {sorted(values.items(), key=str)}\n".encode())
    return digest.hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)
