"""Configs for tests: small, and composed in half the time that Hydra takes, which adds up to minutes of a suite."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import IO, Any

import hydra
from hydra._internal import defaults_list
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[1] / "conf"


def compose_quickly() -> None:
    """From here on, in this process and its forks; what is composed is the same (`tests/test_composing.py`)."""
    parse_once()
    list_choices_where_asked()


def list_choices_where_asked() -> None:
    """A third of a composition makes, for each yaml with defaults, a config of all choices for defaults like ``${…}``,
    which hardly any yaml has."""
    listed = defaults_list._create_interpolation_map

    @wraps(listed)
    def where_asked(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig | None:
        asked = any(default.is_interpolation() for default in defaults)
        return listed(overrides, defaults, self_added) if asked else None

    defaults_list._create_interpolation_map = where_asked


def parse_once() -> None:
    """Parsing some forty yamls is two fifths of a composition.

    Whoever loads a file that has not changed is given a copy of his own.
    """
    load, kept = OmegaConf.load, {}

    @wraps(load)
    def load_once(file: str | Path | IO[Any]) -> Any:
        path = Path(getattr(file, "name", file))  # type: ignore[arg-type]
        if not path.is_relative_to(CONF):
            return load(file)
        status = os.stat(path)
        key = path, status.st_ino, status.st_mtime_ns, status.st_size
        if key not in kept:
            kept[key] = pickle.dumps(load(file))
        return pickle.loads(kept[key])  # a sixth of the time of deepcopy

    OmegaConf.load = staticmethod(load_once)  # type: ignore[method-assign, assignment]


def composing_in(folder: Path, data_folder: Path) -> Callable[..., DictConfig]:
    """``composed("train", "experiment=shapes_std", …)``: a config that runs in seconds, in ``folder``."""

    def composed(root: str, *overrides: str) -> DictConfig:
        small = [
            f"paths.data={data_folder}",
            f"paths.outputs={folder / 'outputs'}",
            "trainer=cpu",
        ]
        if root != "evaluate":  # which writes to the checkpoint's own run
            small.append(f"paths.run={folder / 'run'}")
        if any(override.startswith("experiment=shapes_") for override in overrides):
            small += [
                *(f"data.source.{split}={count}" for split, count in {"train": 24, "val": 6, "test": 6}.items()),
                "data.batch_size=4",
                "data.eval_batch_size=3",
                "trainer.max_steps=10",
                "trainer.val_check_interval=5",
            ]
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(root, [*small, *overrides])

    return composed
