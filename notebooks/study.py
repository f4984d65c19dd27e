"""What every notebook begins with: trained detectors, and the images that they were made for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import hydra

from robustdet.analysis.figures.study import Study
from robustdet.cli.analyze import build_study
from robustdet.cli.building import prepare
from robustdet.cli.composition import CONF
from robustdet.cli.quiet import quieten
from robustdet.cli.subjects import checkpoints
from robustdet.runs.run import Run

OUTPUTS = Path("outputs")


def newest(experiment: str, outputs: Path = OUTPUTS) -> Path:
    """The checkpoint of the newest finished run of an experiment. Raises FileNotFoundError where there is none."""
    for run in Run.below(outputs):
        if run.result is not None and (run.ended or {}).get("experiment") == experiment:
            return run.result
    raise FileNotFoundError(
        f"no finished run of {experiment} below {outputs}/: `make demo` makes one in minutes, "
        f"`python -m src.train experiment={experiment}` a better one"
    )


def open_study(detectors: Mapping[str, str | Path], outputs: Path = OUTPUTS) -> Study:
    """Detectors by label, each a checkpoint file or the name of an experiment (its newest finished run), and the test
    images of the first one's data.
    """
    quieten()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("analyze")
    files = {
        label: Path(given) if Path(given).suffix else newest(str(given), outputs) for label, given in detectors.items()
    }
    cfg.ckpt_path = {label: str(file) for label, file in files.items()}
    prepare(cfg)
    return build_study(cfg, checkpoints(cfg))
