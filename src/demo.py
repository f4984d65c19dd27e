"""`make demo`: train a tiny SSD, watch it collapse under attack, defend it, compare. Every number is measured here."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from src.composition import CONF, check

EXPERIMENTS = ["shapes_std", "shapes_mtd_warm", "shapes_robustdet"]


def compose(root: str, *overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(root, list(overrides))
    check(cfg, root)
    return cfg
