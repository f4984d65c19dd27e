"""transformers' detectors as ours: their own losses and detections, image by image, and whose labels are whose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustdet.evaluation.environment import conditions, file_sha256
from robustdet.interop.transformers_models import TransformersModel
from tests.detection.conftest import make_target
from tests.interop.networks import NEEDS_TRANSFORMERS, SIZE, TRANSFORMERS

transformers = pytest.importorskip("transformers", reason=NEEDS_TRANSFORMERS)
TARGETS = [make_target([[5, 5, 40, 40], [20, 20, 60, 60]], [1, 3]), make_target([], [])]


def images() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def built(kind: str, **changed: Any) -> TransformersModel:
    torch.manual_seed(0)
    given = {"weights": None, "config": TRANSFORMERS[kind], "num_classes": 3, **changed}
    return TransformersModel(name=kind, input_size=SIZE, **given).eval()


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_losses_and_detections_are_its_own(kind: str):
    model = built(kind)
    found = model.losses(model(images()), model.assign(TARGETS))
    names = {"detr": "DetrImageProcessor", "yolos": "YolosImageProcessor", "rt_detr": "RTDetrImageProcessor"}
    processor = getattr(transformers, names[kind])(do_resize=False, do_rescale=False)
    seen = processor(images=list(images()), return_tensors="pt")["pixel_values"]
    objects = {
        "class_labels": torch.tensor([0, 2]),
        "boxes": torch.tensor([[22.5, 22.5, 35, 35], [40.0, 40, 40, 40]]) / SIZE,
    }
    nothing = {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}
    for place, target in enumerate([objects, nothing]):
        theirs = model.network(pixel_values=seen[place : place + 1], labels=[target])
        torch.testing.assert_close(found.total[place], theirs.loss, rtol=1e-4, atol=1e-4)
    assert (found.localization > 0).tolist() == [True, False]
    assert found.num_positives.tolist() == [1, 0]

    outputs = model.network(pixel_values=seen)
    sizes = [(SIZE, SIZE)] * 2
    theirs = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    for one, their in zip(model.detect(model(images())), theirs, strict=True):
        torch.testing.assert_close(one.scores, their["scores"].sort(descending=True).values, rtol=1e-4, atol=1e-5)
        assert len(one.labels) == 12
    assert not any(module.training for module in model.train().network.modules())


def test_a_folder_is_loaded_with_its_names_without_their_gaps(tmp_path: Path):
    source = built("yolos", num_classes=4)
    source.network.config.id2label = {0: "N/A", 1: "cat", 2: "dog", 3: "bird"}
    source.network.save_pretrained(tmp_path)
    model = TransformersModel(name="mine", weights=tmp_path, input_size=SIZE).eval()
    assert (model.classes, model.num_classes) == (["cat", "dog", "bird"], 3)
    assert model.file == tmp_path / "model.safetensors"
    assert len(file_sha256(model.file)) == 64
    (assigned, _) = model.assign(TARGETS)
    assert assigned["class_labels"].tolist() == [1, 3]
    (found, _) = model.detect(model(images()))
    theirs = source.detect(source(images()))[0]
    assert found.labels.tolist() == [label - 1 for label in theirs.labels.tolist() if label > 1]  # theirs count "N/A"
    assert "transformers" in conditions(model, "cpu", "32-true")["libraries"]
    renamed = TransformersModel(name="mine", weights=tmp_path, input_size=SIZE, classes=["a", "b", "c"])
    assert renamed.classes == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"model\.classes names 2 classes, and mine has 3"):
        TransformersModel(name="mine", weights=tmp_path, input_size=SIZE, classes=["a", "b"])

    transformers.DetrImageProcessor(do_normalize=False).save_pretrained(tmp_path)
    plain = TransformersModel(name="mine", weights=tmp_path, input_size=SIZE).eval()
    assert torch.equal(plain(images()).images, images())
    assert not torch.equal(model(images()).images, images())


def test_what_cannot_be_built_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"model\.weights=detr/mine: no config\.json there; .*or hub:OWNER"):
        built("detr", weights="detr/mine")
    with pytest.raises(ValueError, match=r"model\.weights=null are random ones and need model\.config=\{model_type"):
        built("detr", config=None)
    with pytest.raises(ValueError, match=r"model\.config\.model_type: bert is none of the detectors known here: detr"):
        built("detr", config={"model_type": "bert"})
    with pytest.raises(ValueError, match=r"expected images of shape \[B, 3, 64, 64\], got \[1, 3, 32, 32\]"):
        built("yolos")(torch.rand(1, 3, 32, 32))
    built("yolos").network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="yolos has 3 classes without names, and the data have 6"):
        built("yolos", weights=tmp_path, num_classes=6)
