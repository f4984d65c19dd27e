"""Every analysis of conf/analysis, and predictions, on checkpoints of untrained tiny detectors."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from robustdet import load_detector
from robustdet.analysis.figures.study import Analysis
from robustdet.cli.analyze import analyze
from robustdet.cli.building import build
from robustdet.cli.composition import CONF, check
from robustdet.cli.export import run as export
from robustdet.cli.predict import run as predict
from robustdet.cli.subjects import checkpoints
from robustdet.runs.run import Run

NAMES = sorted(file.stem for file in (CONF / "analysis").glob("*.yaml"))
PAPER = {
    "pr_curves",
    "detections",
    "loss_change",
    "gradient_entanglement",
    "attack_loss_change",
    "pgd_steps",
    "confidence",
}
Compose = Callable[..., DictConfig]


def quick(cfg: DictConfig) -> None:
    """Two images, two steps an attack, whatever the yaml says; untrained detectors need a low threshold."""
    with open_dict(cfg):
        for key in list(cfg):
            if isinstance(cfg[key], DictConfig):
                quick(cfg[key])
            elif key == "steps":
                cfg[key] = [1, 2] if not isinstance(cfg[key], int) else min(cfg[key], 2)
        for key, value in {"num_images": 2, "train_images": 2, "epochs": 1, "batch_size": 1, "threshold": 0.8}.items():
            if key in cfg:
                cfg[key] = value


@pytest.fixture
def checkpoint(compose: Compose, tmp_path: Path) -> Callable[[str], Path]:
    """A run's folder as training leaves it, without the training. Few detections an image: drawing them takes long."""

    def written(experiment: str, run: str = "run") -> Path:
        folder = tmp_path / experiment / run
        cfg = compose("train", f"experiment={experiment}", f"paths.run={folder}", "protocol.max_detections=8")
        Run(folder).begin({}, OmegaConf.to_yaml(cfg, resolve=True))
        path = folder / "checkpoints" / "final.ckpt"
        path.parent.mkdir()
        model = build(cfg).model
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "classification_head" in name:
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
        torch.save(model.state_dict(), path)
        return path

    return written


def test_the_papers_figures_are_there():
    assert {*PAPER, "differences", "epsilon_sweep", "linearity", "routing", "summary", "universal_patch"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_analysis_composes_and_says_what_it_is(compose: Compose, name: str):
    cfg = compose("analyze", f"analysis={name}")
    check(cfg, "analyze")
    assert isinstance(instantiate(cfg.analysis), Analysis)
    head = (CONF / "analysis" / f"{name}.yaml").read_text(encoding="utf-8")
    assert head.startswith("# ")
    assert "# python -m src.analyze " in head


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_analysis_runs_on_several_detectors(
    compose: Compose, checkpoint: Callable[[str], Path], tmp_path: Path, name: str
):
    files = [checkpoint("shapes_robustdet")] + ([] if name == "routing" else [checkpoint("shapes_std")])
    paths = ",".join(map(str, files))
    cfg = compose("analyze", f"analysis={name}", f"ckpt_path=[{paths}]", f"paths.run={tmp_path / 'out'}")
    quick(cfg.analysis)
    written = analyze(cfg, name)
    assert [file.name for file in written[:3]] == [f"{name}.pdf", f"{name}.png", f"{name}.csv"]
    assert all(file.parent == tmp_path / "out" / "analysis" for file in written)
    with Image.open(written[1]) as picture:
        assert min(picture.size) > 200
    rows = list(csv.DictReader(written[2].read_text(encoding="utf-8").splitlines()))
    named = {row[column] for row in rows for column in ("detector", "other") if column in row}
    assert named == {file.parents[2].name for file in files}


@pytest.mark.slow
def test_without_paths_run_figures_lie_in_the_run_or_under_the_names(
    compose: Compose, checkpoint: Callable[..., Path], tmp_path: Path
):
    one, other = checkpoint("shapes_std"), checkpoint("shapes_mtd")
    for given, folder in [
        (str(one), one.parents[1] / "analysis"),
        (f"[{one},{other}]", tmp_path / "outputs" / "analysis" / "shapes_std+shapes_mtd"),
        (f"{{SSD:{one},MTD:{other}}}", tmp_path / "outputs" / "analysis" / "SSD+MTD"),
    ]:
        cfg = compose("analyze", "analysis=confidence", f"ckpt_path={given}", "paths.run=null")
        quick(cfg.analysis)
        assert analyze(cfg, "confidence")[0].parent == folder


def test_labels(compose: Compose, checkpoint: Callable[..., Path]):
    one, other, third = checkpoint("shapes_std", "a"), checkpoint("shapes_std", "b"), checkpoint("shapes_mtd")
    found = checkpoints(compose("analyze", f"ckpt_path=[{one},{other},{third}]"))
    assert list(found) == ["shapes_std a", "shapes_std b", "shapes_mtd"]
    assert found["shapes_mtd"].cfg.name == "shapes_mtd"
    with pytest.raises(ValueError, match="2 checkpoints are called 'shapes_std a': name them"):
        checkpoints(compose("analyze", f"ckpt_path=[{one},{one}]"))


def test_a_file_of_no_run_is_what_the_experiment_says(
    compose: Compose, checkpoint: Callable[..., Path], tmp_path: Path
):
    foreign = checkpoint("shapes_std").rename(tmp_path / "theirs.pth")
    with pytest.raises(
        ValueError, match=r"there is no .*config\.yaml that says what .*theirs\.pth is: give experiment="
    ):
        checkpoints(compose("analyze", f"ckpt_path={foreign}"))
    cfg = compose("analyze", "experiment=shapes_std", "analysis=confidence", f"ckpt_path={foreign}")
    quick(cfg.analysis)
    table = analyze(cfg, "confidence")[2].read_text(encoding="utf-8")
    assert table.splitlines()[1].startswith("theirs,clean,")


def test_what_is_missing_is_named(compose: Compose, checkpoint: Callable[..., Path], tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"ckpt_path=.*none\.ckpt does not exist"):
        checkpoints(compose("analyze", f"ckpt_path={tmp_path / 'none.ckpt'}"))
    with pytest.raises(ValueError, match="ckpt_path is needed"):
        checkpoints(compose("analyze"))
    cfg = compose("analyze", "analysis=routing", f"ckpt_path={checkpoint('shapes_std')}")
    with pytest.raises(ValueError, match=r"analysis=routing .* there is none in shapes_std \(SSD\)"):
        analyze(cfg, "routing")


def test_a_run_whose_data_have_moved_is_told_where_they_are(
    compose: Compose, checkpoint: Callable[..., Path], tmp_path: Path
):
    path = checkpoint("shapes_std")
    there = OmegaConf.load(path.parents[1] / "config.yaml").data.root
    move_data(path, tmp_path / "elsewhere")
    overrides = ["analysis=confidence", f"ckpt_path={path}"]
    cfg = compose("analyze", *overrides)
    quick(cfg.analysis)
    with pytest.raises(FileNotFoundError, match=r"elsewhere.* is not there.*data\.root=… says where these images are"):
        analyze(cfg, "confidence", overrides)
    overrides.append(f"data.root={there}")
    cfg = compose("analyze", *overrides)
    quick(cfg.analysis)
    assert analyze(cfg, "confidence", overrides)
    with pytest.raises(ValueError, match=r"data=… needs experiment=… too"):
        analyze(cfg, "confidence", [*overrides, "data=voc"])


def test_one_detector_differs_from_nothing(compose: Compose, checkpoint: Callable[..., Path]):
    cfg = compose("analyze", f"ckpt_path={checkpoint('shapes_std')}", "analysis=differences")
    with pytest.raises(ValueError, match=r"shapes_std alone has nothing to differ from: give two checkpoints or more"):
        analyze(cfg, "differences")


def test_detectors_of_other_images_are_refused(compose: Compose, checkpoint: Callable[..., Path]):
    cfg = compose("analyze", "experiment=shapes_std", f"ckpt_path={checkpoint('shapes_std')}", "data.image_size=64")
    with pytest.raises(ValueError, match=r"shapes_std takes images of 96 pixels, but those of shapes come in 64"):
        analyze(cfg, "summary")


@pytest.mark.parametrize("attack", ["pgd_cls", None])
def test_a_photograph_is_looked_at(
    compose: Compose,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    attack: str | None,
    capsys: pytest.CaptureFixture[str],
):
    for name in ("one.jpg", "two.png"):
        Image.effect_noise((120, 80), 60).convert("RGB").save(tmp_path / name)
    photos = f"[{tmp_path / 'one.jpg'},{tmp_path / 'two.png'}]"
    cfg = compose(
        "predict",
        f"ckpt_path={checkpoint('shapes_std')}",
        f"image={photos}",
        "~attack" if attack is None else f"attack={attack}",
        "threshold=0.8",
        f"paths.run={tmp_path / 'out'}",
    )
    check(cfg, "predict")
    if attack is not None:
        cfg.attack.steps = 2
    files = predict(cfg, attack)
    assert {file.name for file in files} == {
        f"{n}.{ending}" for n in ("one", "two") for ending in ("pdf", "png", "csv")
    }
    rows = list(csv.DictReader((tmp_path / "out" / "one.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["view"] for row in rows} == ({"clean"} if attack is None else {"clean", attack})
    assert all(0 <= float(row["x0"]) <= float(row["x1"]) <= 120 and float(row["y1"]) <= 80 for row in rows)
    assert "one.jpg (120 x 80 pixels), seen by shapes_std" in capsys.readouterr().out


def test_a_checkpoint_and_a_photograph_are_enough(compose: Compose, checkpoint: Callable[..., Path], tmp_path: Path):
    path = checkpoint("shapes_std")
    names = ["ring", "disc", "star", "wedge", "crate", "moon"]
    torch.save({"state_dict": {f"model.{k}": v for k, v in torch.load(path).items()}, "classes": names}, path)
    move_data(path, tmp_path / "nowhere")
    Image.effect_noise((120, 80), 60).convert("RGB").save(tmp_path / "one.jpg")
    cfg = compose("predict", f"ckpt_path={path}", f"image={tmp_path / 'one.jpg'}", "~attack", "threshold=0.8")
    table = next(file for file in predict(cfg, None) if file.suffix == ".csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert rows
    assert {row["label"] for row in rows} <= set(names)
    assert not (tmp_path / "nowhere").exists()


def test_a_checkpoint_that_names_no_classes_takes_those_of_its_data(
    compose: Compose, checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = checkpoint("shapes_std")
    Image.effect_noise((120, 80), 60).convert("RGB").save(tmp_path / "one.jpg")
    cfg = compose("predict", f"ckpt_path={path}", f"image={tmp_path / 'one.jpg'}", "~attack", "threshold=1")
    predict(cfg, None)
    said = capsys.readouterr().out
    assert f"{path} does not say which classes it knows: they are read from its data" in said
    assert "  clean      nothing has a score above 1\n" in said
    (tmp_path / "nowhere").write_text("no folder", encoding="utf-8")
    move_data(path, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"does not say which classes it knows, and they cannot be read from its data"):
        predict(cfg, None)


def move_data(checkpoint: Path, root: Path) -> None:
    """What the run's config says of where its data are."""
    file = checkpoint.parent.parent / "config.yaml"
    cfg = OmegaConf.load(file)
    cfg.data.root = str(root)
    OmegaConf.save(cfg, file)


def test_predict_looks_with_one_detector(compose: Compose, checkpoint: Callable[..., Path]):
    paths = f"[{checkpoint('shapes_std')},{checkpoint('shapes_mtd')}]"
    with pytest.raises(ValueError, match=r"src\.predict looks with one detector, got 2: shapes_std, shapes_mtd"):
        predict(compose("predict", f"ckpt_path={paths}", "image=photo.jpg"), "pgd_cls")


@pytest.mark.parametrize("names", [("a/1.jpg", "b/1.jpg"), ("1.jpg", "1.png")])
def test_photographs_of_one_name_are_refused_before_any_work(
    compose: Compose, checkpoint: Callable[..., Path], tmp_path: Path, names: tuple[str, str]
):
    one, other = (str(tmp_path / name) for name in names)
    cfg = compose("predict", f"ckpt_path={checkpoint('shapes_std')}", f"image=[{one},{other}]")
    with pytest.raises(ValueError, match=rf"image: what is found in {one} and {other} would be written to the same"):
        predict(cfg, "pgd_cls")


@pytest.mark.parametrize("command", ["analyze", "predict", "export", "load_detector"])
@pytest.mark.parametrize(
    ("says", "named"),
    [
        (["model=tiny_robust_ssd"], "model="),
        (
            ["model.head_std=0.3"],
            "model.head_std=0.01, as .* this command says model.head_std=0.3",
        ),
    ],
)
def test_what_the_command_says_of_a_detector_and_its_run_says_otherwise_is_refused(
    compose: Compose, checkpoint: Callable[..., Path], tmp_path: Path, command: str, says: list[str], named: str
):
    """It used to be ignored without a word: the figure would be of another detector than the one that was named."""
    path = checkpoint("shapes_std")
    given = [f"ckpt_path={path}", *says]
    does = {
        "analyze": lambda: analyze(compose("analyze", "analysis=confidence", *given), "confidence", given),
        "predict": lambda: predict(compose("predict", *given, f"image={tmp_path / 'a.jpg'}"), None, given),
        "export": lambda: export(compose("export", *given, f"output={tmp_path / 'a.onnx'}"), given),
        "load_detector": lambda: load_detector(path, *says),
    }
    with pytest.raises(ValueError, match=f"{path} was trained with {named}"):
        does[command]()
    same = "model.head_std=0.01"
    assert load_detector(path, same).name == "shapes_std"
