"""The record that tests of evaluations, tables and reports vary: every number is made up."""

from __future__ import annotations

from robustdet.evaluation.environment import describe_environment
from robustdet.evaluation.precision import EXPECTED
from robustdet.evaluation.record import Record, RunInfo

RUN = RunInfo(
    experiment="voc_std",
    method="standard",
    protocol="paper",
    suite="paper",
    tabled=True,
    data="VOC 2007",
    split="VOC2007 test",
    split_size=4952,
    seed=0,
    checkpoint="final.ckpt",
    checkpoint_sha256="a" * 64,
)
RECORD = Record(
    run=RUN,
    attack="pgd_cls",
    attack_settings={"steps": 20, "threat": {"epsilon": "8/255"}},
    num_images=4952,
    ap_rule="voc07",
    map=0.018,
    area_map=0.01,
    map_50_95=None,
    per_class={"cat": 0.5, "dog": None},
    perturbation={"linf_max": 8.0, "linf_8bit_max": 8.0, "changed": 0.99},
    clean_losses={"total": 1.5},
    attacked_losses={"total": None},
    loss_rose={"total": 1.0},
    flags=[],
    seconds=812.0,
    images_per_second=6.1,
    environment=describe_environment("cpu", EXPECTED),
    date="2026-01-01T00:00:00+00:00",
)
