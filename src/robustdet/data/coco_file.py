"""One json file of COCO's instances format, read with distrust: every record is asked for what it has to say.

COCO's boxes are (x, y, width, height) with 0-based edges; here (x, y, x + width, y + height), clipped to the image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from robustdet.data.annotation import Annotation, Object, annotate, are_fractions
from robustdet.data.files import Files, content_of, one_form
from robustdet.data.pixels import SUFFIXES, upright_size
from robustdet.data.problems import Fault, Problems

Record = dict[str, Any]
NUMBERS = "[x, y, width, height], four numbers in pixels"


class COCOFile:
    """One annotation file and its folder of images."""

    def __init__(self, file: Path, images: Path) -> None:
        self.file = file
        self.images = images

    @cached_property
    def content(self) -> Record:
        try:
            content = json.loads(content_of(self.file))
        except (ValueError, RecursionError) as error:
            raise Fault(self.file, f"is no well-formed json (cut short?): {error}", "a whole json file") from error
        for part in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not isinstance(content.get(part), list):
                raise Fault(self.file, f"has no list of {part!r}: it is no COCO instances file", f"a list of {part}")
        if not content["images"]:
            raise Fault(self.file, "lists no image", "records of images")
        if any(isinstance(one, dict) and "segments_info" in one for one in content["annotations"]):
            raise Fault(self.file, "is a panoptic file: its annotations have segments, no boxes", "an instances file")
        return content

    @cached_property
    def categories(self) -> dict[int, str]:
        """Category id to name, in the order of the ids.

        Raises InputError for what is wrong in them: labels mean nothing without them, so no policy passes over it.
        """
        problems = Problems()
        found: dict[int, str] = {}
        for index, record in enumerate(self.content["categories"]):
            place = f"category {index}"
            key, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
            name = str(name) if _is_whole(name) else name  # "1" to "9" of house numbers
            if not _is_whole(key):
                problems.add(self.file, place, "id", key, "a whole number")
            elif not isinstance(name, str) or not name.strip():
                problems.add(self.file, f"{place} with id {key}", "name", name, "the name of a class")
            elif key in found:
                problems.add(self.file, place, "id", key, f"an id of its own, and it is that of {found[key]!r}")
            elif one_form(name.strip()) in found.values():
                problems.add(self.file, f"{place} with id {key}", "name", name, "a name of its own")
            else:
                found[key] = one_form(name.strip())
        problems.settle()
        return dict(sorted(found.items()))

    def annotations(self, classes: Sequence[str], problems: Problems) -> list[Annotation]:
        """All sound images, those without objects too, in the file's order. Categories are matched by name."""
        if any(isinstance(one, dict) and "neg_category_ids" in one for one in self.content["images"]):
            expected = "all objects of each image: what is found beyond them counts as false here"
            problems.add(self.file, "", "the annotation", _LVIS, expected, notice=True)
        images, ids = self._images(problems)
        labels = {key: classes.index(name) + 1 for key, name in self.categories.items()}
        objects: dict[int | str, list[Object | None]] = {key: [] for key in ids}
        seen: set[int | str] = set()
        for index, record in enumerate(self.content["annotations"]):
            self._add(index, record, labels, objects, seen, problems)
        present = Files(self.images, SUFFIXES)
        paths: dict[Path, str] = {}
        found = []
        for key, record in images.items():
            try:
                path = self._path(record, present)
                if path in paths:
                    raise Fault(self.file, f"has image {key} and image {paths[path]} in one file, {path}", "one record")
                paths[path] = str(key)
                size = _size(record) or upright_size(path)
            except Fault as fault:
                problems.report(fault.problem)
                continue
            found.append(annotate(path, str(key), size, objects[key], self.file, problems))
        return found

    def _images(self, problems: Problems) -> tuple[dict[int | str, Record], list[int | str]]:
        """Sound records by id; and the ids of all, for objects of the others are no orphans."""
        found: dict[int | str, Record] = {}
        ids: dict[int | str, None] = {}
        names: set[str] = set()  # 3 and "3" are two ids and would be one image_id
        for index, record in enumerate(self.content["images"]):
            place = f"image record {index}"
            if not isinstance(record, dict):
                problems.add(self.file, place, "it", record, "an object with fields")
                continue
            key = record.get("id")
            if not _is_id(key):
                problems.add(self.file, place, "id", key, "a whole number or a text")
                continue
            if str(key) in names:
                problems.add(self.file, place, "id", key, "an id of its own, and another image has it")
            elif wrong := [side for side in ("height", "width") if not _is_side(record.get(side))]:
                problems.add(self.file, f"image {key}", wrong[0], record[wrong[0]], "a number of pixels, 0 if unknown")
            else:
                found[key] = record
            ids[key] = None
            names.add(str(key))
        return found, list(ids)

    def _add(
        self,
        index: int,
        record: Any,
        labels: dict[int, int],
        objects: dict[int | str, list[Object | None]],
        seen: set[int | str],
        problems: Problems,
    ) -> None:
        """Append the record's object to those of its image; None for one with a fault, which is told."""
        place = f"annotation record {index}"
        if not isinstance(record, dict):
            return problems.add(self.file, place, "it", record, "an object with fields")
        key, image = record.get("id"), record.get("image_id")
        place = f"annotation {key if _is_id(key) else f'record {index}'}"
        if not _is_id(image) or image not in objects:
            other = _other_type(image)
            near = (
                f"image {other!r}, another type, is one" if other in objects else f"such as {next(iter(objects), '')!r}"
            )
            expected = f"the id of an image of this file ({near})"
            return problems.add(self.file, place, "image_id", image, expected)
        place = f"{place} (object {len(objects[image])} of image {image})"
        objects[image].append(self._object(place, record, labels, seen, problems))
        if _is_id(key):
            seen.add(key)

    def _object(
        self, place: str, record: Record, labels: dict[int, int], seen: set[int | str], problems: Problems
    ) -> Object | None:
        key, category, box = record.get("id"), record.get("category_id"), record.get("bbox")
        if key is not None and not _is_id(key):
            problems.add(self.file, place, "id", key, "a whole number or a text")
        elif _is_id(key) and key in seen:
            problems.add(self.file, place, "id", key, "an id of its own, and an annotation before has it")
        elif not _is_whole(category) or category not in labels:
            problems.add(self.file, place, "category_id", category, f"one of {', '.join(map(str, labels))}")
        elif not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            problems.add(self.file, place, "bbox", box, NUMBERS)
        elif are_fractions(*_corners(box)):
            problems.add(self.file, place, "bbox", box, f"{NUMBERS}, and these are fractions of the image")
        elif wrong := [mark for mark in ("iscrowd", "difficult") if record.get(mark, 0) not in (0, 1)]:
            problems.add(self.file, place, wrong[0], record[wrong[0]], "0 or 1")
        else:
            marks = (bool(record.get(mark, 0)) for mark in ("difficult", "iscrowd"))
            return Object(place, {"bbox": box}, _corners(box), labels[category], *marks)
        return None

    def _path(self, record: Record, present: Files) -> Path:
        """Raises Fault for an image that is not there, or for two of which either may be meant."""
        name, url = record.get("file_name"), record.get("coco_url")
        if name is None and isinstance(url, str):  # LVIS
            name = url.rpartition("/")[2]
        if not isinstance(name, str) or not name or "\0" in name:
            raise Fault(self.file, f"has image {record['id']} with the file_name {name!r}", "the name of a file")
        found = present.named(name.replace("\\", "/").removeprefix("./"))
        if len(found) > 1:
            raise Fault(self.file, f"has image {record['id']}, which is {' or '.join(map(str, found))}", "one file")
        path = found[0] if found else self.images / name
        if not found and not _is_file(path):
            raise Fault(self.file, f"has image {record['id']}, and it is missing, {path} does not exist", "that file")
        return path


_LVIS = ["LVIS, which names some of the objects of an image only"]


def _corners(box: list[Any]) -> tuple[float, float, float, float]:
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height


def _size(record: Record) -> tuple[int, int] | None:
    """(height, width); None where one is not known."""
    height, width = record.get("height") or 0, record.get("width") or 0
    return (int(height), int(width)) if height and width else None


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> TypeGuard[int | str]:
    return _is_whole(value) or isinstance(value, str)


def _other_type(key: Any) -> int | str | None:
    """The same id as a text, or as a number."""
    if isinstance(key, str):
        return int(key) if key.isascii() and key.isdigit() and len(key) < 20 else None
    return str(key) if _is_whole(key) else None


def _is_number(value: Any) -> bool:
    """Whether it is one that a float can hold."""
    return (_is_whole(value) and abs(value) < 1 << 53) or isinstance(value, float)


def _is_side(value: Any) -> bool:
    """Whether it can be a height or width; what is not known is missing, null or 0."""
    return value is None or (_is_number(value) and 0 <= value < 1 << 31 and value == int(value))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
