"""From a command line to a checked config: what every command starts with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from robustdet.cli.composition import CONF, check, expand_homes
from robustdet.cli.hints import as_text, braces_expanded, hint_for_overrides, no_names
from robustdet.cli.stopping import signal_counts, stop_at_ctrl_c
from robustdet.data.sampler import of_dead_worker
from robustdet.errors import RobustdetError, StorageError
from robustdet.files import trouble_of_place


def launcher(root: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Decorates a command: compose ``conf/<root>.yaml``, check it, run; what is wrong in it is answered in one screen.

    A value that Hydra cannot read is taken as a text, as a path with blanks is; ``~`` is the home folder. An error of
    this project's own is printed without its traceback, which ``HYDRA_FULL_ERROR=1`` brings.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        composed = False

        def checked(cfg: DictConfig) -> Any:
            nonlocal composed
            composed = True
            try:
                with signal_counts():
                    expand_homes(cfg)
                    check(cfg, root)
                    return _plainly(task, cfg)
            except RobustdetError as error:
                # one job of many: its sweeper decides
                if HydraConfig.get().mode == RunMode.MULTIRUN or os.environ.get("HYDRA_FULL_ERROR") == "1":
                    raise
                sys.exit(str(error))

        main = hydra.main(config_path=str(CONF), config_name=root, version_base="1.3")(checked)

        def command() -> Any:
            if taken_apart := braces_expanded(sys.argv[1:]):
                sys.exit(taken_apart)
            sys.argv[1:] = map(as_text, sys.argv[1:])
            if unnamed := no_names(sys.argv[1:]):
                sys.exit(unnamed)
            stop_at_ctrl_c()
            try:
                return main()
            except SystemExit as stop:
                if stop.code == 1 and not composed:
                    print(_hint(root), file=sys.stderr, end="")
                raise

        return command

    return decorate


def _plainly(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """What the task returns; what a disk refuses, or a dead worker, is said as an error of this project's own."""
    try:
        return task(cfg)
    except OSError as error:
        trouble = None if isinstance(error, RobustdetError) else trouble_of_place(error)
        if trouble is None:
            raise
        raise StorageError(f"{trouble}: choose another paths.outputs or paths.run, or make room there") from error
    except RuntimeError as error:
        told = None if isinstance(error, RobustdetError) else of_dead_worker(error)
        if told is None:
            raise
        raise told from error


def _hint(root: str) -> str:
    try:
        hint = hint_for_overrides(sys.argv[1:], root)
    except (HydraException, OmegaConfBaseException):  # what is wrong is elsewhere
        return ""
    return f"{hint}\n" if hint else ""
