"""The demo from end to end, with few images and updates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig

from robustdet.cli import demo

pytestmark = pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped")
SMALL = ["trainer.val_check_interval=2", "validation.attack.steps=1", "logger=none", "callbacks=none"]
FEW = [
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "data.source.train=24",
    "data.source.val=6",
    "data.source.test=6",
    "data.batch_size=4",
    "data.eval_batch_size=3",
    "trainer=cpu",
]


@pytest.mark.slow
def test_it_trains_three_detectors_and_ends_with_one_table(
    compose: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def small(root: str, *overrides: str) -> DictConfig:
        chosen = [override for override in overrides if not override.startswith("warm_start.overrides")]
        paths = [f"paths.{name}={tmp_path / name}" for name in ("outputs", "data")]
        stage = "warm_start.overrides=[" + ",".join(f'"{one}"' for one in [*FEW, *SMALL[1:], *paths]) + "]"
        of_root = [*SMALL, stage] if root == "train" else ["pictures=1", "suite.attacks.dag.steps=2"]
        cfg = compose(root, *paths, *chosen, *of_root, "protocol.max_detections=8")  # which are drawn
        for attack in ("pgd_cls", "pgd_loc", "cwa", "outrank", "ap_surrogate"):
            if root == "evaluate":
                cfg.suite.attacks[attack].steps = 1
        return cfg

    def at_once(*experiments: str) -> SimpleNamespace:
        for experiment in experiments:
            demo.measure(experiment)
        return SimpleNamespace(wait=lambda: 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "UPDATES", dict.fromkeys(demo.UPDATES, 2))
    monkeypatch.setattr(demo, "compose", small)
    monkeypatch.setattr(demo, "measure_meanwhile", at_once)
    demo.demo()
    said = capsys.readouterr().out
    table = said[said.index("Demo: 6 drawn images") :]
    assert "DAG capped at 2 steps" in table
    assert all(experiment in table for experiment in demo.UPDATES)
    assert said.count("Starting from the finished clean stage shapes_std") == 2
    assert "is trained already" in said


@pytest.mark.parametrize("experiment", ["shapes_mtd_warm", "shapes_robustdet"])
def test_the_defences_start_from_the_standard_ssd_of_the_demo(experiment: str, monkeypatch: pytest.MonkeyPatch):
    trained: list[DictConfig] = []
    monkeypatch.setattr(demo, "identify", lambda cfg: SimpleNamespace(run="one"))  # without drawing its images
    monkeypatch.setattr(demo, "finished", lambda *which: None)
    monkeypatch.setattr(demo, "train", lambda cfg: trained.append(cfg) or Path("final.ckpt"))
    demo.checkpoint_of(experiment)
    updates = demo.UPDATES["shapes_std"]
    assert trained[0].warm_start.overrides == [f"trainer.max_steps={updates}", f"trainer.val_check_interval={updates}"]
    assert trained[0].trainer.max_steps == demo.UPDATES[experiment]


def test_a_failure_of_the_other_process_ends_it_and_names_the_log(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "measure", lambda experiment: [])
    monkeypatch.setattr(demo, "checkpoint_of", lambda experiment: Path("final.ckpt"))
    monkeypatch.setattr(demo, "measure_meanwhile", lambda *experiments: SimpleNamespace(wait=lambda: 1))
    with pytest.raises(SystemExit, match=r"the second core failed: see outputs/demo/second_core\.log"):
        demo.demo()
