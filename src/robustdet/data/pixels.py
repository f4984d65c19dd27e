"""The one reader of pixels: training, evaluation, prediction and notebooks see a file as a viewer shows it.

- A file whose EXIF data turn or mirror it is turned, for that is what people and their tools annotate. A quarter turn
  shows in the annotated size, and is refused where that is the size before turning. Half turns and mirrors do not
  show: they are always carried out.
- Transparency is laid on white. Palettes, grey, CMYK and YCbCr become RGB. 16-bit grey is scaled by its full range,
  65535 to 255, as viewers do, and refused where nothing reaches 4096: 12 bits in 16 would be a black picture. 32-bit
  integers, floats and Lab have no agreed range or profile and are refused.
- Of a file with several pictures (TIFF, GIF, a phone's MPO) it is the first.
- A photograph whose shorter side has at least four times the detector's input is reduced by a whole factor as it is
  decoded, to no less than twice the input. VOC's and COCO's images are never so large for SSD300.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from robustdet.data.problems import Fault
from robustdet.errors import MissingFileError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm")
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")  # Pillow knows more, and some of them run programs
KNOWN = ", ".join(FORMATS)
EIGHT_BITS = "8 bits a channel: convert it"
TWELVE_BITS = 4096  # values
ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)
WHITE = (255, 255, 255)
SPARE = 2  # times the detector's input that reduction leaves: what a crop of training enlarges

Size = tuple[int, int]  # (height, width)


def read_pixels(path: Path, input_size: int, annotated: Size | None = None) -> tuple[UInt8[np.ndarray, "H W 3"], Size]:
    """RGB, upright, perhaps reduced; and the (height, width) of the upright file before reduction.

    Args:
        input_size: height and width of the detector's images, by which large photographs are reduced.
        annotated: what an annotation says of the size; None asks nothing.

    Raises:
        MissingFileError: no such file.
        Fault: no image of a known format, cut short, too large, of a mode without clear colours, or of another
            size than annotated. The file is named.
    """
    with opened(path) as file:
        size, turn = _upright(path, file, annotated)
        require_mode(path, file)
        factor = max(min(size) // (SPARE * input_size), 1)
        if factor > 1 and file.format in ("JPEG", "MPO"):
            whole = file.width
            file.draft(None, (-(-file.width // factor), -(-file.height // factor)))
            factor //= max(round(whole / file.width), 1)
        image = as_shown(path, file)
        if factor > 1:
            image = image.reduce(factor)
        return np.array(image if turn is None else image.transpose(turn)), size


def require_pixels(path: Path, annotated: Size | None, decode: bool) -> None:
    """Raise as `read_pixels` would, from the first bytes of the file and its last; with ``decode`` from all of them."""
    with opened(path) as file:
        _upright(path, file, annotated)
        require_mode(path, file)
        if decode or _has_16_bits(file) or not _has_end(path, file.format):
            as_shown(path, file)


def upright_size(path: Path) -> Size:
    """(height, width) of the file as a viewer shows it; raises as `read_pixels`."""
    with opened(path) as file:
        return _upright(path, file, None)[0]


def stretched(
    image: UInt8[np.ndarray, "H W 3"] | Float32[np.ndarray, "H W 3"], size: int
) -> UInt8[np.ndarray, "S S 3"] | Float32[np.ndarray, "S S 3"]:
    """``image`` with ``size`` x ``size`` pixels: bilinear, and not antialiased where it gets smaller."""
    if image.shape[:2] == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file's first picture, its pixels not read yet. Whatever Pillow raises inside becomes an error of ours."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            yield file
    except Fault:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except Image.DecompressionBombError as error:
        raise Fault(path, f"cannot be read as an image: {error}", "fewer pixels: cut it into tiles") from error
    except Image.UnidentifiedImageError:
        raise Fault(path, "cannot be read as an image, whatever its name says", f"one of {KNOWN}") from None
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything, SyntaxError among them
        raise Fault(path, f"cannot be read as an image (cut short?): {error}", f"a whole file of {KNOWN}") from error


def require_mode(path: Path, file: Image.Image) -> None:
    """Raise Fault for pixels whose meaning a viewer would have to guess."""
    unclear = {"I": "32-bit integers", "F": "floats", "LAB": "Lab colours"}
    if file.mode in unclear and not _has_16_bits(file):
        raise Fault(path, f"has pixels of mode {file.mode} ({unclear[file.mode]}), whose range is not told", EIGHT_BITS)


def _has_16_bits(file: Image.Image) -> bool:
    """A PGM of more than 8 bits says its range, and Pillow has scaled it to 65535 in a wider mode."""
    return file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PPM")


def as_shown(path: Path, file: Image.Image) -> Image.Image:
    """RGB of 8 bits, not turned."""
    if file.mode == "RGB" and "transparency" not in file.info:
        file.load()
        return file
    if _has_16_bits(file):
        return _from_16_bits(path, file)
    if file.has_transparency_data:
        colours = file.convert("RGBA")
        shown = Image.new("RGB", file.size, WHITE)
        shown.paste(colours, mask=colours.getchannel("A"))
        return shown
    return file.convert("RGB")


def _from_16_bits(path: Path, file: Image.Image) -> Image.Image:
    values = np.array(file).astype(np.uint32)
    if 0 < values.max() < TWELVE_BITS:
        found = f"has pixels of mode {file.mode} (16-bit grey) and none above {values.max()} of 65535, nearly black"
        raise Fault(path, found, EIGHT_BITS)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _upright(path: Path, file: Image.Image, annotated: Size | None) -> tuple[Size, Image.Transpose | None]:
    """Size of the upright image, and the turn that makes it so."""
    orientation = file.getexif().get(ORIENTATION, 1)
    turns = file.format != "TIFF"  # of which Pillow gives the size and the pixels upright already
    size = (file.height, file.width)
    other = size[::-1] if orientation in QUARTER_TURNS else size
    stored, size = (size, other) if turns else (other, size)
    if annotated is not None and tuple(annotated) != size:
        height, width = annotated
        found = f"is {size[1]} x {size[0]} pixels, its annotation says {width} x {height}"
        if tuple(annotated) == stored:
            raise Fault(
                path,
                f"{found}, its size before it is turned as its EXIF orientation {orientation} says",
                "boxes in the upright image: turn them too, or take the EXIF data away",
            )
        raise Fault(path, found, "the same size in both")
    return size, TURNS.get(orientation) if turns else None


def _has_end(path: Path, kind: str | None) -> bool:
    """Whether the last bytes are those of a whole JPEG or PNG; of other formats, and of some sound files, unknown."""
    mark = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "")
    if mark is None:
        return False
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 16, 0))
        return mark in file.read()
