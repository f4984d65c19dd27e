"""One folder of PASCAL VOC's layout: ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``, hidden files passed over.

VOC's pixels are 1-based and its boxes inclusive, so (xmin, ymin, xmax, ymax) = (1, 1, 640, 480) covers a whole
640 x 480 image; here it becomes (0, 0, 640, 480): (xmin - 1, ymin - 1, xmax, ymax), upper edge exclusive.
"""

from __future__ import annotations

import difflib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from robustdet.data.annotation import Annotation, Object, annotate, are_fractions, unknown
from robustdet.data.files import Files, content_of, one_form
from robustdet.data.lists import listed
from robustdet.data.pixels import SUFFIXES, upright_size
from robustdet.data.problems import Fault, Problem, Problems
from robustdet.errors import MissingFileError

EDGES = ("xmin", "ymin", "xmax", "ymax")
DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")
DIFFICULT = {"": False, "0": False, "false": False, "1": True, "true": True}


class VOCFolder:
    """Images are known by the stem of their files, "day1/im00" in a sub-folder, in all three places."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def images(self) -> Files:
        return Files(self.path / "JPEGImages", SUFFIXES)

    @cached_property
    def files(self) -> Files:
        return Files(self.path / "Annotations", [".xml"])

    @property
    def splits(self) -> list[str]:
        files = (self.path / "ImageSets" / "Main").glob("*.txt")
        return sorted(file.stem for file in files if not file.name.startswith("."))

    def ids(self, split: str, problems: Problems) -> list[str]:
        """Image ids of a split.

        Raises MissingFileError for a split without a file, naming those that exist; InputError for an empty one.
        """
        file = self.path / "ImageSets" / "Main" / f"{split}.txt"
        if not file.is_file():
            existing = ", ".join(self.splits) or "none at all"
            raise MissingFileError(f"{self.path} has no split {split!r} ({file} is missing). It has: {existing}.")
        return listed(file, {*self.files.stems, *self.images.stems}, problems)

    @cached_property
    def class_names(self) -> list[str]:
        """All names in ``Annotations``, alphabetically. What cannot be read is for `annotation` to tell."""
        names = set()
        for stem in self.files.stems:
            try:
                root = parsed(self.files.with_stem(stem)[0])
            except Fault:
                continue
            names |= {_text(obj, "name") for obj in root.findall("object")}
        return sorted(map(one_form, names - {""}))

    def annotation(self, image_id: str, classes: Sequence[str], problems: Problems) -> Annotation | None:
        """One image with its sound objects; None where the image or its annotation cannot be used as a whole."""
        try:
            file = self._file(image_id)
            root = parsed(file)
            image = self._image(image_id, file, root, problems)
            size = _size(root) or upright_size(image)
        except Fault as fault:
            problems.report(fault.problem)
            return None
        objects = [
            _object(element, f"object {index} of image {image_id}", file, classes, problems)
            for index, element in enumerate(root.findall("object"))
        ]
        return annotate(image, image_id, size, objects, file, problems)

    def _file(self, image_id: str) -> Path:
        found = self.files.with_stem(image_id)
        if not found:
            wanted = self.path / "Annotations" / f"{image_id}.xml"
            raise Fault(wanted, f"is missing: image {image_id} has no annotation", _nearest(image_id, self.files))
        return only(found, wanted=f"annotation of image {image_id}")

    def _image(self, image_id: str, file: Path, root: ElementTree.Element, problems: Problems) -> Path:
        """The file of the annotation's stem. Where there are several, ``<filename>`` says which.

        Where ``<filename>`` says another image that exists, one of the two is wrong, and the image is left out.
        """
        said = one_form(_text(root, "filename").replace("\\", "/").rpartition("/")[2])
        folder, _, stem = image_id.rpartition("/")
        inside = f"{folder}/{said}" if folder else said
        found = self.images.with_stem(image_id)
        if not found:
            wanted = self.path / "JPEGImages" / image_id
            raise Fault(
                file, f"has no image: no {wanted} with one of {', '.join(SUFFIXES)}", _nearest(image_id, self.images)
            )
        other = self.images.named(inside) or self.images.with_stem(inside)
        if said and stem not in (said, said.rpartition(".")[0]):
            value = f"says <filename>{said}</filename>, and its own name is that of {found[0].name}"
            if other:
                raise Fault(file, f"{value}, and {other[0]} exists, too", "one and the same image")
            problems.report(Problem(str(file), "", "", value, "the same name: its own counts", notice=True))
        both = [image for image in found if image in other]
        return only(both or found, wanted=f"image of {file}")


def only(found: Sequence[Path], wanted: str) -> Path:
    if len(found) > 1:
        raise Fault(found[0], f"is one {wanted}, and so {'is' if len(found) == 2 else 'are'} "
                              f"{' and '.join(map(str, found[1:]))}", "one of them")  # fmt: skip
    return found[0]


def parsed(file: Path) -> ElementTree.Element:
    """The root of an annotation, in any encoding that it declares and Python knows. Raises Fault for what is none."""
    content = content_of(file)
    try:
        root = _tree(content)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        expected = "a whole file in the encoding that it declares (UTF-8 where it declares none)"
        raise Fault(file, f"is no well-formed XML (cut short?): {error}", expected) from error
    if root.tag != "annotation":
        raise Fault(file, f"is no annotation of VOC: its root is <{root.tag}>", "<annotation>")
    return root


def _tree(content: bytes) -> ElementTree.Element:
    declared = DECLARED.match(content)
    if declared and declared[1].lower() not in (b"utf-8", b"utf-16", b"us-ascii", b"iso-8859-1"):
        text = content[declared.end() :].decode(declared[1].decode())  # the parser knows a few encodings only
        return ElementTree.fromstring(text)
    return ElementTree.fromstring(content)


def _object(
    element: ElementTree.Element, record: str, file: Path, classes: Sequence[str], problems: Problems
) -> Object | None:
    """None for what has a fault."""
    name, difficult = one_form(_text(element, "name")), _text(element, "difficult")
    boxes = element.findall("bndbox")
    written = {edge: boxes[0].findtext(edge) for edge in EDGES} if boxes else {}
    if not name:
        problems.add(file, record, "<name>", None, "the name of a class")
    elif name not in classes:
        problems.add(file, record, "<name>", name, f"a class.{unknown(name, classes)}")
    elif difficult.lower() not in DIFFICULT:
        problems.add(file, record, "<difficult>", difficult, "0 or 1")
    elif len(boxes) != 1:
        problems.add(file, record, "the number of <bndbox>", len(boxes), "1: an object has one box")
    else:
        try:
            xmin, ymin, xmax, ymax = (float(text or "") for text in written.values())
        except ValueError:
            problems.add(file, record, "<bndbox>", written, "four numbers")
            return None
        if are_fractions(xmin, ymin, xmax, ymax):
            problems.add(file, record, "<bndbox>", written, "pixels, and these are fractions of the image")
            return None
        # as published: a point or a line has no area, and is not the one pixel that VOC's rule would make
        last = 0 if xmax > xmin and ymax > ymin else 1
        box = (xmin - 1, ymin - 1, xmax - last, ymax - last)
        return Object(record, written, box, classes.index(name) + 1, DIFFICULT[difficult.lower()])
    return None


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width); None where there is none, zeros, or a text: some labelling tools write no size."""
    try:
        height, width = (int(float(_text(root, f"size/{side}"))) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _nearest(name: str, files: Files) -> str:
    near = difflib.get_close_matches(name, files.stems, n=1)
    return f"a file of that name in {files.folder}{f', such as {near[0]}' if near else ''}"
