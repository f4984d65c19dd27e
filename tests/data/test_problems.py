"""All that is wrong with a data set is told at once, and the policy decides what it does to a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from robustdet.cli.data_check import FILE, check_data
from robustdet.data.datamodule import DetectionDataModule
from robustdet.data.problems import SHOWN, Fault, Problem, Problems
from robustdet.data.voc import VOC
from robustdet.errors import InputError

GOOD = ("cat", (2, 2, 9, 9), 0)
FLIPPED = ("cat", (9, 2, 2, 9), 0)
POINT = ("cat", (5, 5, 5, 5), 0)


@pytest.fixture
def faulty(tmp_path: Path, voc_image) -> Path:
    """Of each split an image without a fault and one with; in train an image that is cut short, too."""
    root = tmp_path / "mine"
    for split in ("train", "val", "test"):
        voc_image(root, f"{split}_good", [GOOD], split)
        voc_image(root, f"{split}_bad", [GOOD, FLIPPED, POINT], split)
    voc_image(root, "cut", [GOOD], "train")
    file = root / "JPEGImages" / "cut.jpg"
    file.write_bytes(file.read_bytes()[:-40])
    return root


def module_of(root: Path, **settings: Any) -> DetectionDataModule:
    return DetectionDataModule(VOC, root, image_size=32, batch_size=1, eval_batch_size=1, **settings)


def test_a_problem_says_file_record_field_value_and_what_was_expected() -> None:
    problems = Problems("skip")
    problems.add("a.json", "image 3", "height", "96", "a number")
    problems.add("a.json", "image 4", "height", None, "a number")
    problems.add("a.json", "image 4", "height", None, "a number")
    problems.add("a.json", "", "categories", [0] * 999, "few")
    problems.report(Fault("b.xml", "is cut short", "a whole file").problem)
    texts = list(map(str, problems))
    assert texts[0] == "a.json: image 3: height is the text '96'; expected a number"
    assert texts[1] == "a.json: image 4: height is missing; expected a number"
    assert texts[2].startswith("a.json: categories is [0, 0") and len(texts[2]) < 200  # noqa: PT018
    assert texts[3] == "b.xml is cut short; expected a whole file"


def test_an_error_has_the_first_few_and_their_number() -> None:
    problems = Problems()
    for index in range(SHOWN + 3):
        problems.add("a.json", f"image {index}", "height", -1, "a number")
    with pytest.raises(InputError, match=rf"(?s)^{SHOWN + 3} problems in the data:.*image {SHOWN - 1}: .*…\n"):
        problems.settle()
    problems.settle()  # told once
    with pytest.raises(InputError, match=r"data\.on_problem=ignore: expected error or skip"):
        Problems("ignore")


def test_by_default_a_run_does_not_begin_and_hears_of_both_its_splits(faulty: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)^3 problems.*train_bad\.xml.*cut\.jpg cannot be read.*val_bad\.xml"):
        module_of(faulty).setup("fit")
    with pytest.raises(InputError, match=r"test_bad\.xml: object 1 of image test_bad: its box is"):
        module_of(faulty).setup("test")


def test_skip_leaves_out_objects_and_images_and_says_so(faulty: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {file: file.read_bytes() for file in faulty.rglob("*") if file.is_file()}
    module = module_of(faulty, on_problem="skip")
    with caplog.at_level(logging.INFO):
        module.setup()
    batches = list(module.train_dataloader())
    assert sorted(target.image_id for batch in batches for target in batch.targets) == ["train_bad", "train_good"]
    assert all(len(target.labels) == 1 for batch in batches for target in batch.targets)
    assert "problems: 3; what has them is left out (data.on_problem=skip)" in caplog.text
    assert "training on 2 images, 2 objects (0 difficult, 0 crowd), 2 dropped" in caplog.text
    assert module.test_split == "mine: test, less what has a fault (1)"
    assert {file: file.read_bytes() for file in faulty.rglob("*") if file.is_file()} == before


def test_boxes_without_area_alone_are_no_fault(tmp_path: Path, voc_image) -> None:
    for split in ("train", "test"):
        voc_image(tmp_path, split, [GOOD, POINT], split)
    module = module_of(tmp_path)
    module.setup()
    assert module.test_split == f"{tmp_path.name}: test"
    assert [problem.notice for problem in module.problems()] == [True, True]


def config(root: Path, **settings: Any) -> Any:
    target = {"_target_": "robustdet.data.datamodule.DetectionDataModule", "_convert_": "all", "root": str(root)}
    sizes = {"image_size": 32, "batch_size": 1, "eval_batch_size": 1, "check": True}
    source = {"_target_": "robustdet.data.voc.VOC", "_partial_": True}
    return OmegaConf.create({"data": {**target, **sizes, "source": source, **settings}})


def test_a_check_lists_everything_in_a_table_and_in_a_file(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (faulty / "ImageSets/Main/val.txt").write_bytes(b"\xe9\n")
    with pytest.raises(InputError, match=r"mine: 4 problems, 2 notices; all are in .*data_problems\.json"):
        check_data(config(faulty), tmp_path / "run")
    listed = json.loads((tmp_path / "run" / FILE).read_text(encoding="utf-8"))
    assert [Path(one["file"]).name for one in listed if not one["notice"]] == [
        "train_bad.xml", "cut.jpg", "val.txt", "test_bad.xml",
    ]  # fmt: skip
    assert set(listed[0]) == set(Problem.__dataclass_fields__)
    assert listed[0]["record"] == "object 1 of image train_bad"
    assert "Problems of the data" in capsys.readouterr().out
    check_data(config(faulty, on_problem="skip"), tmp_path / "run")
    assert "4 problems, 2 notices" in capsys.readouterr().out


def test_an_image_in_two_splits_is_a_notice(tmp_path: Path, voc_image) -> None:
    for split in ("train", "test"):
        voc_image(tmp_path, "same", [GOOD], split)
    (notice,) = module_of(tmp_path).problems()
    assert notice.notice
    assert str(notice).endswith("its split is the text 'test'; expected one split, and it is in train too")


def test_a_check_of_sound_data_says_so_and_nobody_is_checked_unasked(
    tmp_path: Path, voc_image, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val", "test"):
        voc_image(tmp_path / "mine", split, [GOOD], split)
    check_data(config(tmp_path / "mine", check=False), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_data(config(tmp_path / "mine"), tmp_path / "run")
    assert "mine: no problem in any split" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / FILE).read_text(encoding="utf-8")) == []
