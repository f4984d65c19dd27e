"""A run's config names code: only what is of this project, of its libraries or vouched for is let through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from robustdet.cli.building import plain
from robustdet.cli.subjects import config_of
from robustdet.errors import InputError
from robustdet.runs.run import Run
from robustdet.trust import require_trusted, trusted
from tests.launchers.test_composition import EXPERIMENTS, compose
from tests.slowness import quick

FILE = Path("run/config.yaml")


@pytest.mark.parametrize("experiment", quick(EXPERIMENTS, lambda name: name.endswith(("_std", "_cfr"))))
def test_what_an_experiment_asks_for_is_trusted(experiment: str):
    for protocol in ("paper", "authors"):
        settings = plain(compose("train", f"experiment={experiment}", f"protocol={protocol}"))
        assert trusted(settings["model"]["_target_"]).__name__ in {"SSD", "RobustSSD", "TorchvisionModel"}
        require_trusted(settings, FILE)  # and so is all the rest: it would raise
        settings["model"]["backbone"] = {"_target_": "os.system"}
        with pytest.raises(InputError, match=r"model\.backbone\._target_ asks for os.system"):
            require_trusted(settings, FILE)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.exec",
        "torch.load",
        "torch.hub.load",
        "torch.nn.modules.module.torch.load",
        "robustdet.files.write_text",
        "robustdet.data.download.fetch",
        "robustdet.training.preemption.requeue_slurm_job",
        "torchvision.datasets.CIFAR10",
        "torch.nn.modules.module",
        "robustdet.files.os.system",
        "robustdet.attacks.pgd.torch.load",
        "albumentations.core.composition.random.seed",
        "robustdet.nowhere.Nothing",
        "robustdetective.Spy",
        "",
    ],
)
def test_other_code_is_refused_wherever_it_stands(path: str):
    for settings, key in (
        ({"model": {"_target_": path}}, "model._target_"),
        ({"data": {"augmentation": {"transforms": [{"_target_": path}]}}}, "data.augmentation.transforms.0._target_"),
        ({"method": {"_target_": "hydra.utils.get_method", "path": path}}, "method.path"),
    ):
        with pytest.raises(InputError, match=rf"run/config.yaml: {key} asks for {path}, which is not of this project"):
            require_trusted(settings, FILE)


def test_a_package_can_be_vouched_for(monkeypatch: pytest.MonkeyPatch):
    theirs: dict[str, Any] = {"model": {"_target_": "jinja2.Template", "source": ""}}
    with pytest.raises(InputError, match="If you trust who wrote it: ROBUSTDET_TRUST=jinja2"):
        require_trusted(theirs, FILE)
    monkeypatch.setenv("ROBUSTDET_TRUST", "lab, jinja2")
    require_trusted(theirs, FILE)
    assert trusted("jinja2.Template").__name__ == "Template"
    assert trusted("jinja2.Nothing") is None


@pytest.mark.parametrize("path", ["os.system", "torch.hub.load", "robustdet.detection.pretrained.torch.hub.load"])
def test_what_the_error_advises_helps(path: str, monkeypatch: pytest.MonkeyPatch):
    settings = {"model": {"_target_": path}}
    with pytest.raises(InputError, match="ROBUSTDET_TRUST=") as told:
        require_trusted(settings, FILE)
    monkeypatch.setenv("ROBUSTDET_TRUST", str(told.value).rpartition("ROBUSTDET_TRUST=")[2])
    require_trusted(settings, FILE)
    assert trusted(path) is not None


def test_a_runs_wish_to_download_is_not_this_commands(tmp_path: Path):
    settings = plain(compose("train", "experiment=voc_std", "data.download=true", f"paths.run={tmp_path}"))
    Run(tmp_path).begin({"experiment": "voc_std", "identity": "x"}, yaml.safe_dump(settings))
    assert settings["data"]["download"] is True
    assert config_of(Run(tmp_path)).data.download is False


def test_what_a_finished_run_no_longer_needs_is_not_asked():
    foreign = {"x": {"_target_": "os.system"}}
    require_trusted({"trainer": foreign, "callbacks": foreign, "logger": foreign}, FILE)
    for key in ("model", "data", "protocol"):
        with pytest.raises(InputError, match=rf"{key}.x._target_ asks for os.system"):
            require_trusted({"trainer": foreign, key: foreign}, FILE)
