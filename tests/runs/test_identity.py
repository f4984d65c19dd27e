"""What makes a run another one, and what does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from robustdet.cli.clean_stage import Identity, identify, stage_config
from robustdet.cli.composition import composed
from robustdet.errors import InputError
from robustdet.runs.run import Run
from tests.composing import composing_in
from tests.launchers.commands import FEW

Compose = Callable[..., DictConfig]
STD = [*FEW, "experiment=shapes_std"]
WARM = [line for line in FEW if not line.startswith("warm_start")] + ["experiment=shapes_mtd_warm"]
EARLY = (
    "+callbacks.early={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/AP50_clean, mode: max, "
    "patience: 3}"
)


@pytest.fixture(scope="module")
def std(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Identity:
    return identify(composing_in(tmp_path_factory.mktemp("std"), data_folder)("train", *STD))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.devices=[3]",
        "trainer=ddp_cpu",
        "trainer=gpu",
        "+trainer.sync_batchnorm=true",
        "+trainer.num_nodes=2",
        "data.num_workers=3",
        "data.eval_batch_size=5",
        "trainer.val_check_interval=3",
        "logger=none",
        "~callbacks.learning_rate",
        "~callbacks.preemption",
        "~callbacks.best",
        "validation.clean_share=1",
        "keep_memory=false",
        "+trainer.profiler=simple",
        "+callbacks.bar={_target_: pytorch_lightning.callbacks.TQDMProgressBar}",
    ],
)
def test_where_and_how_closely_watched_is_no_part_of_it(override: str, compose: Compose, std: Identity):
    assert std == identify(compose("train", *STD, override))


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "trainer.max_steps=11",
        "optimizer.lr=0.1",
        "data.batch_size=2",
        "data.source.train=23",
        "data.source.seed=1",
        "trainer.precision=64-true",
        "+trainer.accumulate_grad_batches=2",
        "+trainer.overfit_batches=2",
        "+trainer.sync_batchnorm=false",
        "+trainer.max_time='00:00:00:05'",
        "+trainer.a_setting_to_come=1",
        "callbacks.levers.channels_last=true",
        "callbacks=averaged",
        EARLY,
        "larger_batch=2",
    ],
)
def test_what_is_learnt_is(override: str, compose: Compose, std: Identity):
    assert std.run != identify(compose("train", *STD, override)).run


def test_an_average_is_of_the_run_alone_and_looks_at_nothing(compose: Compose):
    averaged = "callbacks=averaged"
    base, of_run, of_both = (
        identify(compose("train", *WARM, *more))
        for more in ([], [averaged], [averaged, f'warm_start.overrides=["{averaged}"]'])
    )
    assert base.stage == of_run.stage != of_both.stage
    assert len({base.run, of_run.run, of_both.run}) == 3
    assert identify(compose("train", *WARM, averaged, "trainer.val_check_interval=3")).run == of_run.run
    assert identify(compose("train", *WARM, averaged, "callbacks.averaging.decay=0.9")).run != of_run.run


def test_data_count_by_their_content_and_not_by_their_place(compose: Compose, tmp_path: Path):
    base = compose("train", *STD)
    here = identify(base)
    folder = instantiate(base.data).source.folder
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved / folder.name)
    there = compose("train", *STD, f"data.root={moved}")
    assert identify(there) == here
    image = moved / folder.name / "JPEGImages" / "train_00000.png"
    Image.new("RGB", (96, 96), "red").save(image)
    assert identify(there).run != here.run
    repainted = identify(there).run
    record = moved / folder.name / "Annotations" / "train_00001.xml"
    record.write_text(record.read_text(encoding="utf-8").replace("<difficult>0", "<difficult>1", 1), encoding="utf-8")
    assert identify(there).run not in (here.run, repainted)


def test_seeds_of_one_experiment_share_a_recipe_with_their_clean_stages(compose: Compose):
    one, other = (identify(compose("train", *WARM, f"seed={seed}")) for seed in (0, 1))
    assert one.recipe == other.recipe
    assert one.run != other.run
    assert one.stage is not None
    assert other.stage is not None
    assert one.stage.run != other.stage.run
    shorter = identify(compose("train", *WARM, 'warm_start.overrides=["trainer.max_steps=5"]'))
    assert shorter.recipe != one.recipe


def test_a_clean_stage_is_told_what_the_run_is_told(compose: Compose):
    cfg = compose(
        "train", *WARM, "seed=5", "trainer=ddp_cpu", "trainer.precision=64-true", "trainer.max_steps=7", "logger=none",
        "protocol=authors", "+data.val_share=0.1", "data.batch_size=2", "model.input_size=64",
        'warm_start.overrides=["trainer.limit_val_batches=1","optimizer.lr=0.5"]',
    )  # fmt: skip
    stage = stage_config(cfg)
    assert (stage.name, stage.method._target_) == ("shapes_std", "robustdet.defences.standard.Standard")
    for key in ("seed", "protocol", "logger", "paths.data", "data.source", "data.val_share", "data.image_size"):
        assert _at(stage, key) == _at(cfg, key), key
    assert (stage.trainer.devices, stage.trainer.strategy, stage.trainer.precision) == (2, "ddp", "64-true")
    assert stage.optimizer.lr == 0.5
    assert stage.trainer.limit_val_batches == 1
    own = composed("train", ["experiment=shapes_std", "paths.run=unused"])
    assert (stage.trainer.max_steps, stage.data.batch_size) == (own.trainer.max_steps, own.data.batch_size)


def test_a_clean_stage_is_fitted_to_the_boxes_and_pixels_of_the_run(compose: Compose):
    cfg = compose("train", *WARM, "model.default_boxes.scales=[0.1,0.3,0.5,0.7,0.9]", "model.normalisation.std=[1,2,3]")
    stage = stage_config(cfg)
    assert list(stage.model.default_boxes.scales) == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert list(stage.model.normalisation.std) == [1, 2, 3]
    assert stage_config(compose("train", *WARM)).model == composed("train", [*STD, "paths.run=unused"]).model


def test_weights_that_were_fitted_to_other_boxes_are_refused(compose: Compose, tmp_path: Path):
    run = Run(tmp_path / "clean")
    other = compose("train", *STD, "model.default_boxes.scales=[0.1,0.3,0.5,0.7,0.9]")
    run.begin({"experiment": "shapes_std"}, OmegaConf.to_yaml(other, resolve=True))
    run.checkpoints.mkdir()
    run.final.touch()
    start = f"warm_start.ckpt_path={run.final}"
    said = r"was trained with model.default_boxes.scales=\[0.1, 0.3, 0.5, 0.7, 0.9\], and this training has \[0.2, 0.33"
    with pytest.raises(InputError, match=said):
        identify(compose("train", *WARM, start))
    assert identify(compose("train", *WARM, start, "model.default_boxes.scales=[0.1,0.3,0.5,0.7,0.9]"))


def _at(cfg: DictConfig, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def test_weights_to_start_from_count_by_their_content(compose: Compose, tmp_path: Path, std: Identity):
    one, same, other = (tmp_path / name for name in ("one.pth", "same.pth", "other.pth"))
    for file, content in ((one, b"1"), (same, b"1"), (other, b"2")):
        file.write_bytes(content)
    found = [identify(compose("train", *STD, f"+model.weights={file}")).run for file in (one, same, other)]
    assert found[0] == found[1] != found[2]
    assert found[0] != std.run


@pytest.mark.parametrize(
    "override",
    [
        "trainer.precision=32",
        "trainer.precision=null",
        "trainer.limit_train_batches=1.0",
        "+trainer.accumulate_grad_batches=1",
        "+trainer.overfit_batches=0",
        "+trainer.fast_dev_run=false",
        "trainer.gradient_clip_val=5",
    ],
)
def test_a_default_that_is_written_out_is_no_part_of_it(override: str, compose: Compose, std: Identity):
    written = compose("train", *STD, override)
    assert written.trainer.gradient_clip_val == 5.0
    assert std == identify(written)


def test_precision_by_a_plugin_is(compose: Compose, std: Identity):
    plugin = "+trainer.plugins=[{_target_: pytorch_lightning.plugins.precision.DoublePrecision}]"
    assert std.run != identify(compose("train", *STD, plugin)).run


def test_what_something_steers_by_counts_and_the_folder_it_writes_to_does_not(
    compose: Compose, tmp_path: Path, std: Identity
):
    looks = "validation.max_images=2"
    assert std == identify(compose("train", *STD, looks))
    assert identify(compose("train", *STD, EARLY)).run != identify(compose("train", *STD, EARLY, looks)).run
    swa = "{_target_: pytorch_lightning.callbacks.BatchSizeFinder, steps_per_trial: '${paths.run}/here'}"
    here, there = (
        identify(compose("train", *STD, f"+callbacks.x={swa}", f"paths.run={tmp_path / name}")) for name in "ab"
    )
    assert here == there
    assert here != std


def test_the_order_of_callbacks_is_no_part_of_it(compose: Compose):
    other = "+callbacks.other={_target_: pytorch_lightning.callbacks.Timer, duration: 1}"
    assert identify(compose("train", *STD, EARLY, other)) == identify(compose("train", *STD, other, EARLY))
