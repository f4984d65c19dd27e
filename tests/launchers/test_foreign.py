"""Commands on a detector that no run of ours has made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from omegaconf import DictConfig

import robustdet
from robustdet.api import LoadedDetector
from robustdet.cli.building import build
from robustdet.cli.composition import check, composed
from robustdet.cli.evaluate import chosen_checkpoint, evaluate, evaluation_folder, fitting_attacks
from robustdet.cli.foreign import folder_name, is_foreign
from robustdet.cli.instantiating import instantiate
from robustdet.cli.predict import run as run_prediction
from robustdet.cli.stand_ins import with_stand_ins
from robustdet.cli.subjects import as_trained, checkpoints, subject
from robustdet.evaluation.environment import file_sha256
from robustdet.interop.black_box import BlackBox
from tests.detection.conftest import build_detector
from tests.interop.networks import FAST, SIZE, torchvision_model

FEW = ("data=shapes", "data.source.train=4", "data.source.val=2", "data.source.test=2", "data.eval_batch_size=2")
MODEL = ("model=torchvision", f"model.name={FAST}", f"model.input_size={SIZE}", f"model.min_size={SIZE}")
BLACK_BOX = (
    "model=black_box",
    "model.name=bright",
    "model.function.path=tests.interop.networks.bright_boxes",
    f"model.input_size={SIZE}",
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(torchvision_model(FAST, num_classes=6).network.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


@pytest.mark.slow
def test_it_is_evaluated_without_a_run_and_named_truthfully(compose: Callable[..., DictConfig], weights: Path):
    overrides = [*MODEL, f"model.weights={weights}", *FEW, "suite=paper", "pictures=0"]
    cfg = compose("evaluate", *overrides, "suite.attacks.pgd_cls.steps=1", "suite.attacks.pgd_loc.steps=1")
    records = {one.attack: one for one in evaluate(cfg, overrides)}
    assert records.keys() == {"clean", "pgd_cls", "pgd_loc", "worst_case"}
    run = records["clean"].run
    assert (run.experiment, run.method, run.data) == (FAST, "not trained here", "shapes")
    assert (run.checkpoint, run.checkpoint_sha256) == (str(weights), file_sha256(weights))
    assert run.training_seed is None
    reason = "this detector offers no raw scores of every place"
    assert records["worst_case"].left_out == {"cwa": reason, "dag": reason}
    assert records["pgd_cls"].loss_rose
    file = Path(cfg.paths.outputs) / FAST / "mine_shapes" / "evaluation" / "paper" / "records" / "clean.json"
    assert json.loads(file.read_text(encoding="utf-8"))["run"]["experiment"] == FAST


def test_random_weights_are_said(compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]):
    cfg = compose("evaluate", *MODEL, "model.weights=null", *FEW, "suite=quick")
    assert folder_name(cfg) == Path(FAST, "random_shapes")
    one = chosen_checkpoint(cfg)
    cfg = as_trained(cfg, one)
    assert evaluation_folder(cfg) == Path(cfg.paths.outputs, FAST, "random_shapes", "evaluation", "quick")
    label = next(iter(checkpoints(cfg)))
    assert label == one.name == FAST
    model = subject(label, one, instantiate(cfg.data)).model
    assert "WARNING: fasterrcnn_mobilenet_v3_large_320_fpn has random weights" in capsys.readouterr().out
    assert not model.training


def test_other_classes_than_the_datas_are_refused_with_what_to_do(compose: Callable[..., DictConfig], weights: Path):
    cfg = compose("evaluate", *MODEL, f"model.weights={weights}", "model.classes=[cat,dog,disc,ring,square,star]", *FEW)
    with pytest.raises(ValueError, match=rf"{FAST} knows the classes cat, dog, .*; the data shapes have cross, disc"):
        evaluate(cfg)


def test_a_black_box_meets_what_asks_for_detections(
    compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
):
    cfg = compose("evaluate", *BLACK_BOX, *FEW, "suite=black_box")
    attacks, left_out = fitting_attacks(cfg, build(cfg))
    assert list(attacks) == ["noise_sign", "square_detections", "jpeg", "clean"]
    assert left_out.keys() == {"transfer"}
    cfg = compose("evaluate", *BLACK_BOX, *FEW, "suite=quick")
    attacks, left_out = fitting_attacks(cfg, build(cfg))
    assert list(attacks) == ["clean"]
    assert set(left_out.values()) == {"this detector offers no losses"}
    assert "Left out of the suite: pgd_cls, pgd_loc: this detector offers no losses" in capsys.readouterr().out


def test_the_cascade_has_stand_ins_for_what_asks_for_raw_scores(compose: Callable[..., DictConfig], weights: Path):
    cfg = compose("evaluate", *MODEL, f"model.weights={weights}", *FEW, "suite=strongest")
    experiment = build(cfg)
    cfg.suite = with_stand_ins(cfg.suite, experiment.model)
    attacks, left_out = fitting_attacks(cfg, experiment)
    assert "otherwise" not in cfg.suite
    assert list(attacks)[-6:] == [
        "square_detections", "among_others_from_loss", *(f"among_others_still_{place}" for place in (1, 2, 3, "adam")),
    ]  # fmt: skip
    assert {"apgd_total", "ap_surrogate_from_loss"} <= attacks.keys()
    assert {"outrank", "ap_surrogate", "among_others_on_1", "aid_steer_0"} <= left_out.keys()


def test_a_detector_with_raw_scores_needs_no_stand_ins(compose: Callable[..., DictConfig]):
    suite = compose("evaluate", "suite=strongest").suite
    assert "square_detections" not in with_stand_ins(suite, build_detector("tiny_ssd", num_classes=3)).attacks


def test_a_yaml_that_lacks_a_name_or_a_size_is_told_what_they_are(tmp_path: Path):
    own = tmp_path / "model"
    own.mkdir()
    target = "_target_: robustdet.interop.torchvision_models.TorchvisionModel\n"
    (own / "nameless.yaml").write_text(f"# mine\n{target}input_size: 64\n", encoding="utf-8")
    (own / "sizeless.yaml").write_text(f"# mine\n{target}name: mine\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"TorchvisionModel has no name: its yaml says how records call it"):
        is_foreign(composed("evaluate", ["model=nameless"], [str(tmp_path)]))
    with pytest.raises(ValueError, match=r"'model\.input_size' not found\s[\s\S]*as in `input_size: 416`"):
        check(composed("evaluate", ["model=sizeless"], [str(tmp_path)]), "evaluate")


def test_a_checkpoint_is_still_asked_for(compose: Callable[..., DictConfig]):
    with pytest.raises(ValueError, match=r"ckpt_path is needed: .* model=torchvision model\.name=… data=…"):
        evaluate(compose("evaluate", "data=shapes", "model=tiny_ssd"))


@pytest.mark.slow
def test_it_predicts_without_data_where_it_knows_its_classes(
    compose: Callable[..., DictConfig], tmp_path: Path, weights: Path
):
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), (torch.rand(50, 80, 3) * 255).byte().numpy())
    named = [*MODEL, f"model.weights={weights}", "model.classes=[a,b,c,d,e,f]"]
    files = run_prediction(compose("predict", *named, f"image={photo}", "attack.steps=1", "threshold=0.0"), "pgd_cls")
    assert {file.suffix for file in files} == {".pdf", ".png", ".csv"}

    detector = robustdet.load_detector(None, *named)
    assert detector.classes == tuple("abcdef")
    assert robustdet.attack(detector, photo, "pgd_total", "attack.steps=1", threshold=0.0).shape == (1, 3, SIZE, SIZE)


def test_a_function_is_a_detector_of_the_api():
    box = BlackBox(
        function=lambda images: [([[1, 1, 9, 9]], [0.5], [1])] * len(images), input_size=SIZE, name="f", classes=["a"]
    )
    detector = LoadedDetector(box.eval(), ("a",), "f")
    (found,) = robustdet.detect(detector, torch.rand(1, 3, SIZE, SIZE))
    assert found.labels.tolist() == [1]
