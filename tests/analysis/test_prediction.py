import numpy as np
import pytest
import torch
from PIL import Image

from robustdet.analysis.prediction import Prediction, as_target, boxes_of, draw, look, predict
from robustdet.attacks import PGD, LInf
from robustdet.attacks.objectives import a_cls
from robustdet.data.annotation import Annotation
from robustdet.data.dataset import DetectionDataset, collate
from robustdet.data.photo import read_photo
from robustdet.types import Detections
from tests.analysis.figures.conftest import CLASSES, SIZE, detector
from tests.evaluation import scenes


@pytest.fixture
def photo(tmp_path):
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, 60:] = (255, 128, 0)  # the right half is orange
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_photograph_is_stretched_to_the_input_and_upright(photo, tmp_path):
    image, size = read_photo(photo, SIZE)
    assert size == (60, 120)
    assert image.shape == (1, 3, SIZE, SIZE)
    assert torch.allclose(image[0, :, 50, 10], torch.zeros(3), atol=1e-6)
    assert torch.allclose(image[0, :, 50, 90], torch.tensor([1, 128 / 255, 0]), atol=1e-6)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.open(photo).save(tmp_path / "turned.png", exif=exif)
    turned, size = read_photo(tmp_path / "turned.png", SIZE)
    assert size == (120, 60)
    assert turned[0, 0, 90, 50] == 1  # right became below
    assert turned[0, 0, 10, 50] == 0


@pytest.mark.parametrize("side", [40, SIZE, 300])
def test_the_pixels_are_those_of_an_evaluation(tmp_path, side):
    pixels = np.random.default_rng(0).integers(0, 256, (213, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    none = np.zeros(0, bool)
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    annotation = Annotation(tmp_path / "photo.png", "photo", (213, 160), boxes, labels, none, none)
    evaluated = collate([DetectionDataset([annotation], side)[0]]).batch().images
    image, size = read_photo(tmp_path / "photo.png", side)
    assert size == (213, 160)
    assert torch.equal(image, evaluated)


def test_what_is_no_photograph_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image=.*none\.jpg does not exist"):
        read_photo(tmp_path / "none.jpg", SIZE)
    (tmp_path / "text.jpg").write_text("text", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read as an image"):
        read_photo(tmp_path / "text.jpg", SIZE)


def test_boxes_come_in_pixels_of_the_photograph_and_inside_it():
    found = scenes.detections([[24, 48, 96, 100]], [0.9], [2])
    views = {"clean": Prediction(torch.zeros(3, SIZE, SIZE), found)}
    (row,) = boxes_of(views, (48, 192), CLASSES)
    assert (row.view, row.label, row.x0, row.y0, row.x1, row.y1) == ("clean", "star", 48, 24, 192, 48)


def test_an_attack_goes_against_what_the_detector_itself_finds(photo):
    model = detector()
    image, size = read_photo(photo, SIZE)
    attack = PGD(a_cls, LInf("8/255"), steps=5, step_size="2/255")
    threshold = 0.2
    views = predict(model, image, size, attack, "pgd_cls", threshold, seed=0)
    clean, attacked = views["clean"].found, views["pgd_cls"]
    assert (clean.scores > threshold).all()
    assert len(clean.labels) > 0
    target = as_target(clean, size)

    def loss(shown):
        with torch.no_grad():
            return float(model.losses(model(shown), model.assign([target])).classification)

    assert loss(attacked.image[None]) > 1.1 * loss(image)
    assert 0 < (attacked.image - image[0]).abs().max() <= 8 / 255 + 1e-6
    figure = draw(views, size, CLASSES)
    assert [axes.get_title().split(":")[0] for axes in figure.axes[:2]] == ["clean", "pgd_cls"]
    assert "at most 8.0/255" in figure.axes[2].get_title()
    assert figure.axes[0].get_aspect() == 0.5


def test_without_an_attack_it_only_looks(photo):
    model = detector()
    image, size = read_photo(photo, SIZE)
    views = predict(model, image, size, None, "", 0.2, seed=0)
    assert list(views) == ["clean"]
    assert torch.equal(views["clean"].found.boxes, look(model, image, 0.2).found.boxes)
    assert len(draw(views, size, CLASSES).axes) == 1


def test_nothing_found_is_nothing_to_attack(photo):
    image, size = read_photo(photo, SIZE)
    attack = PGD(a_cls, LInf("8/255"), steps=1, step_size="2/255")
    with pytest.raises(ValueError, match=r"nothing to attack: no detection has a score above 1; lower threshold="):
        predict(detector(), image, size, attack, "pgd_cls", 1.0, seed=0)
    blind = detector()
    blind.detect = lambda raw: [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())]
    with pytest.raises(ValueError, match=r"above 0; the detector finds nothing at all: ~attack"):
        predict(blind, image, size, attack, "pgd_cls", 0.0, seed=0)


def test_a_detection_with_edges_in_the_wrong_order_is_a_possible_target():
    target = as_target(scenes.detections([[10, 10, 5, 20]], [0.9], [1]), (10, 10))
    assert target.boxes.tolist() == [[10, 10, 11, 20]]
