"""The tests' quick compositions are Hydra's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal import defaults_list
from omegaconf import OmegaConf

from robustdet.cli.composition import composed

CHOICES = [
    ("train", ["experiment=shapes_cfr", "paths.run=run", "attack=cwa", "loss.gamma=3"]),
    ("evaluate", ["suite=reliable", "experiment=voc_robustdet", "protocol=authors"]),
    ("analyze", ["analysis=summary", "ckpt_path=file"]),
]


@pytest.mark.parametrize(("root", "overrides"), CHOICES, ids=lambda value: value if isinstance(value, str) else "")
def test_they_are_what_hydra_composes(root: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch):
    quickly = composed(root, overrides)
    for owner, name in ((defaults_list, "_create_interpolation_map"), (OmegaConf, "load")):
        monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    assert OmegaConf.to_yaml(quickly) == OmegaConf.to_yaml(composed(root, overrides))
    assert list(quickly) == list(composed(root, overrides))


def test_a_choice_that_follows_another_is_made(tmp_path: Path):
    """``${…}`` in a list of defaults."""
    files: dict[str, Any] = {
        "root": {"defaults": [{"size": "small"}, {"speed": "of_${size}"}]},
        "size/small": {"pixels": 1},
        "size/large": {"pixels": 9},
        "speed/of_small": {"fast": True},
        "speed/of_large": {"fast": False},
    }
    for name, content in files.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(OmegaConf.to_yaml(OmegaConf.create(content)), encoding="utf-8")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert hydra.compose("root").speed.fast
        assert not hydra.compose("root", ["size=large"]).speed.fast
