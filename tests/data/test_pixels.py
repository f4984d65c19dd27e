"""One reader of pixels: every kind of file as a viewer shows it, or refused with its name and what to do."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from robustdet.data.annotation import Annotation
from robustdet.data.augmentation import Augmentation, Expand, IoUCrop
from robustdet.data.checking import with_sound_images
from robustdet.data.dataset import DetectionDataset
from robustdet.data.photo import read_photo
from robustdet.data.pixels import ORIENTATION, read_pixels, require_pixels, upright_size
from robustdet.data.problems import Problems
from robustdet.errors import InputError, MissingFileError, RobustdetError

HEIGHT, WIDTH = 20, 32


def scene() -> np.ndarray:
    """Each quarter its own colour, so that every turn and mirror shows."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:10, :16], pixels[:10, 16:], pixels[10:, :16] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    return pixels


def annotation(path: Path, size: tuple[int, int], boxes: list[list[float]] | None = None) -> Annotation:
    edges = np.array(boxes or [], np.float32).reshape(-1, 4)
    none = np.zeros(len(edges), bool)
    return Annotation(path, path.stem, size, edges, np.ones(len(edges), np.int64), none, none)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels of a file that a viewer turns back into ``upright``; by EXIF's own words, rows and columns apart."""
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(turned[orientation](upright))


def with_orientation(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(stored(scene(), orientation)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_training_evaluation_and_prediction_turn_a_file_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(stored(scene(), orientation)).save(path, exif=exif, **options)
    pixels, size = read_pixels(path, 300, (HEIGHT, WIDTH))
    assert size == upright_size(path) == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(pixels, scene())
    image, _ = DetectionDataset([annotation(path, (HEIGHT, WIDTH))], 24)[0]
    np.testing.assert_array_equal(image.float().div(255), read_photo(path, 24)[0][0])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_in_the_frame_before_turning_are_refused_with_the_word_exif(tmp_path: Path, orientation: int) -> None:
    path = with_orientation(tmp_path / "photo.png", orientation)
    text = (
        rf"photo\.png is 32 x 20 pixels, its annotation says 20 x 32, .* EXIF orientation {orientation} says; expected"
    )
    for refuse in (lambda: read_pixels(path, 300, (32, 20)), lambda: require_pixels(path, (32, 20), decode=False)):
        with pytest.raises(InputError, match=text):
            refuse()
    with pytest.raises(
        InputError, match=r"photo\.png is 32 x 20 pixels, its annotation says 31 x 20; expected the same"
    ):
        read_pixels(path, 300, (20, 31))


def test_an_orientation_that_exif_does_not_know_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 77
    Image.fromarray(scene()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png", 300)[0], scene())


GREY = np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH)
RGB_OF_GREY = np.repeat(GREY[..., None], 3, axis=-1)


def half_transparent() -> Image.Image:
    image = Image.fromarray(scene()).convert("RGBA")
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, 16:] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def on_white() -> np.ndarray:
    pixels = scene()
    pixels[:, 16:] = 255
    return pixels


@pytest.mark.parametrize(
    ("name", "image", "shown"),
    [
        ("grey.png", Image.fromarray(GREY), RGB_OF_GREY),
        ("sixteen.png", Image.fromarray(GREY.astype(np.uint16) * 257), RGB_OF_GREY),
        ("sixteen.tif", Image.fromarray(GREY.astype(np.uint16) * 257), RGB_OF_GREY),
        ("bits.png", Image.fromarray(GREY > 127), np.where(RGB_OF_GREY > 127, 255, 0)),
        ("palette.png", Image.fromarray(scene()).quantize(8), scene()),
        ("palette.gif", Image.fromarray(scene()).quantize(8), scene()),
        ("opaque.png", Image.fromarray(scene()).convert("RGBA"), scene()),
        ("alpha.png", half_transparent(), on_white()),
        ("grey_alpha.png", Image.fromarray(GREY).convert("LA"), RGB_OF_GREY),
        ("colours.bmp", Image.fromarray(scene()), scene()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_mode_is_read_as_a_viewer_shows_it(tmp_path: Path, name: str, image: Image.Image, shown: Any) -> None:
    image.save(tmp_path / name)
    pixels, _ = read_pixels(tmp_path / name, 300)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, shown)


def test_transparent_colours_of_a_palette_and_of_an_rgb_file_are_white(tmp_path: Path) -> None:
    palette = Image.fromarray(scene()).quantize(8)
    black = palette.getpixel((31, 19))
    palette.save(tmp_path / "palette.png", transparency=black)
    Image.fromarray(scene()).save(tmp_path / "rgb.png", transparency=(0, 0, 0))
    expected = scene()
    expected[10:, 16:] = 255
    for name in ("palette.png", "rgb.png"):
        np.testing.assert_array_equal(read_pixels(tmp_path / name, 300)[0], expected)


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_modes_of_jpeg(tmp_path: Path, mode: str) -> None:
    Image.fromarray(scene()).convert(mode).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    expected = np.asarray(Image.fromarray(scene()).convert(mode).convert("RGB")).astype(int)
    assert np.abs(read_pixels(tmp_path / "a.jpg", 300)[0] - expected).mean() < 4


@pytest.mark.parametrize("largest", [1000, 4095, 65535])
def test_a_pgm_says_its_range(tmp_path: Path, largest: int) -> None:
    values = (GREY.astype(np.uint32) * largest // 255).astype(">u2")
    height, width = values.shape
    (tmp_path / "a.pgm").write_bytes(f"P5 {width} {height} {largest}\n".encode() + values.tobytes())
    require_pixels(tmp_path / "a.pgm", (height, width), decode=False)
    assert np.abs(read_pixels(tmp_path / "a.pgm", 300)[0][..., 0].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        ("float.tif", Image.fromarray(GREY.astype(np.float32) / 255), r"mode F \(floats\).*8 bits a channel"),
        ("whole.tif", Image.fromarray(GREY.astype(np.int32)), r"mode I \(32-bit integers\).*8 bits a channel"),
        ("lab.tif", Image.new("LAB", (9, 9)), r"mode LAB \(Lab colours\).*8 bits a channel"),
        (
            "twelve.png",
            Image.fromarray(GREY.astype(np.uint16) * 16),
            r"16-bit grey\) and none above 4080 of 65535.*8 bits",
        ),
    ],
)
def test_pixels_without_a_clear_meaning_are_refused(tmp_path: Path, name: str, image: Image.Image, text: str) -> None:
    image.save(tmp_path / name)
    for refuse in (lambda path: read_pixels(path, 300), lambda path: require_pixels(path, None, decode=False)):
        with pytest.raises(InputError, match=rf"{name} has pixels of mode .*{text.removeprefix('mode ')}"):
            refuse(tmp_path / name)


def bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)


def huge_text(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 3_000_000, zip=True)
    Image.fromarray(scene()).save(path, "PNG", pnginfo=info)


def cut_short(path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = path.with_suffix(suffix)
    Image.fromarray(noise).save(whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (bomb, "cannot be read as an image: .*decompression bomb.*; expected fewer pixels"),
        (huge_text, "cannot be read as an image.*(too large|MAX_TEXT_CHUNK)"),
        (lambda path: cut_short(path, ".jpg"), "cannot be read as an image.*cut short"),
        (lambda path: cut_short(path, ".png"), "cannot be read as an image.*cut short"),
        (
            lambda path: path.write_bytes(b""),
            "cannot be read as an image, whatever its name says; expected one of JPEG",
        ),
        (
            lambda path: path.write_text("<html>", encoding="utf-8"),
            "cannot be read as an image, whatever its name says",
        ),
        (
            lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
            "cannot be .* whatever its name says",
        ),
    ],
)
def test_a_file_that_is_no_sound_image_is_named_at_the_start(
    tmp_path: Path, damage: Callable[[Path], Any], text: str
) -> None:
    path = tmp_path / "odd.file"
    damage(path)
    with pytest.raises(InputError, match=rf"odd\.file {text}"):
        read_pixels(path, 300)
    problems = Problems("skip")
    assert with_sound_images([annotation(path, (64, 64))], problems, decode=False) == []
    assert [problem.file for problem in problems.faults] == [str(path)]


def test_what_a_file_is_counts_and_not_what_it_is_called(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.jpg", 300)[0], scene())
    with pytest.raises(MissingFileError, match=r"none\.jpg does not exist"):
        read_pixels(tmp_path / "none.jpg", 300)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_photographs_are_reduced_with_their_boxes(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.full((421, 655, 3), 40, np.uint8)
    upright[101:303, 200:502] = 220
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"large{suffix}"
    Image.fromarray(stored(upright, orientation)).save(path, exif=exif, quality=100, subsampling=0)
    pixels, size = read_pixels(path, 32)
    assert size == (421, 655)
    assert 64 <= min(pixels.shape[:2]) < 128
    image, target = DetectionDataset([annotation(path, size, [[200, 101, 502, 303]])], 32)[0]
    bright = (image[0] > 130).nonzero()
    left, top, right, bottom = target.boxes[0].tolist()
    assert target.original_size == (421, 655)
    assert abs(bright[:, 1].min() - left) <= 1
    assert abs(bright[:, 1].max() + 1 - right) <= 1
    assert abs(bright[:, 0].min() - top) <= 1
    assert abs(bright[:, 0].max() + 1 - bottom) <= 1


def test_images_of_usual_size_are_not_reduced(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save(tmp_path / "a.jpg")
    assert read_pixels(tmp_path / "a.jpg", 300)[0].shape == (480, 640, 3)
    assert read_pixels(tmp_path / "a.jpg", 120)[0].shape == (240, 320, 3)


def test_the_smallest_boxes_that_pass_a_reader_survive_augmentation(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((700, 900, 3), np.uint8)).save(tmp_path / "a.png")
    boxes = [[899.98, 0, 900, 700], [0, 699.98, 900, 700], [450, 350, 450.011, 350.011]]
    one = annotation(tmp_path / "a.png", (700, 900), boxes)
    dataset = DetectionDataset([one], 96, Augmentation([Expand(p=1.0), IoUCrop()]))
    for epoch in range(30):
        _, target = dataset[epoch, 0]
        assert ((target.boxes[:, 2:] - target.boxes[:, :2]) > 0).all()


def test_nothing_but_our_own_errors_comes_out_of_damaged_bytes(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    path = tmp_path / "a.img"
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"):
        Image.fromarray(scene()).save(path, kind)
        whole = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(whole)
            for place in draw.integers(0, len(damaged), draw.integers(1, 6)):
                damaged[place] = draw.integers(256)
            path.write_bytes(damaged[: draw.integers(len(damaged) // 2, len(damaged) + 1)])
            with suppress(RobustdetError):
                assert read_pixels(path, 300)[0].dtype == np.uint8
