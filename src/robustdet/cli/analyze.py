"""`python -m src.analyze ckpt_path=… analysis=…`: one figure, as vectors and as a bitmap, and its numbers as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from robustdet.analysis.figures.study import Study, require_detectors, save
from robustdet.cli.building import build_metric, build_trainer, prepare
from robustdet.cli.data_check import check_data
from robustdet.cli.foreign import is_foreign
from robustdet.cli.instantiating import instantiate
from robustdet.cli.launcher import launcher
from robustdet.cli.subjects import NO_EXPERIMENT, Trained, checkpoints, data_of, keys_of, subject
from robustdet.errors import InputError
from robustdet.types import Batch


def analysis_folder(cfg: DictConfig, found: Mapping[str, Trained]) -> Path:
    """`<paths.run>/analysis`; by default the run is the checkpoint's own, and for several a folder of their names."""
    if cfg.paths.run is not None:
        return Path(cfg.paths.run) / "analysis"
    first = next(iter(found.values()))
    if len(found) == 1 and first.run is not None:
        return first.run / "analysis"
    return Path(cfg.paths.outputs) / "analysis" / "+".join(label.replace(" ", "_") for label in found)


def build_study(cfg: DictConfig, found: Mapping[str, Trained], given: frozenset[str] = frozenset()) -> Study:
    """The detectors on the device of `cfg.trainer`, and the test split; ``given`` are the command line's keys."""
    data = data_of(cfg, found, given)
    data.setup("test")
    batches = data.test_dataloader()

    def validation() -> Iterable[Batch]:
        data.setup("validate")
        return data.val_dataloader()

    device = build_trainer(cfg, []).strategy.root_device
    subjects = [subject(label, one, data) for label, one in found.items()]
    return Study(
        subjects=[replace(one, model=one.model.to(device)) for one in subjects],
        batches=batches,
        size=len(batches.dataset),  # type: ignore[arg-type]
        split=data.test_split,
        class_names=data.classes,
        metric=build_metric(cfg, data),
        seed=cfg.seed,
        device=device,
        validation=validation,
    )


def analyze(cfg: DictConfig, name: str, overrides: Iterable[str] = ()) -> list[Path]:
    """Writes the figure of `cfg.analysis` under this name; returns the files.

    ``overrides`` are the command-line arguments that ``cfg`` comes from. Raises InputError where these name other data
    and no experiment.
    """
    given = keys_of(overrides)
    if cfg.name == NO_EXPERIMENT and not is_foreign(cfg) and "data" in given:
        raise InputError("data=… needs experiment=… too: without one, the data are those of the first checkpoint's run")
    prepare(cfg)
    found = checkpoints(cfg, given)
    check_data(cfg, analysis_folder(cfg, found))
    study = build_study(cfg, found, given)
    require_detectors(study)
    findings = instantiate(cfg.analysis)(study)
    files = save(findings, analysis_folder(cfg, found), name)
    for note in findings.notes:
        print(f"  {note}")
    print("\n".join(f"{file}" for file in files))
    return files


@launcher("analyze")
def main(cfg: DictConfig) -> None:
    hydra = HydraConfig.get()
    analyze(cfg, hydra.runtime.choices["analysis"], hydra.overrides.task)
