"""COCO's layout: folders of images and ``annotations/instances_<split>.json``; any json in that format with its images.

COCO's boxes are (x, y, width, height) with 0-based edges; here (x, y, x + width, y + height), clipped to the image.
Its 80 category ids have gaps; labels are 1..C in the order of the ids.

T.-Y. Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from robustdet.data.annotation import Annotation, Split, annotate, unknown
from robustdet.data.download import COCO_ARCHIVES, fetch


class COCOFile:
    """One annotation file and its folder of images."""

    def __init__(self, file: Path, images: Path) -> None:
        self.file = file
        self.images = images

    @cached_property
    def content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{self.file} is no well-formed json (cut short?): {error}") from error
        for part in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not isinstance(content.get(part), list):
                raise ValueError(f"{self.file} has no list of {part!r}: it is no COCO instances file.")
        if not content["images"]:
            raise ValueError(f"{self.file} lists no image.")
        return content

    @cached_property
    def categories(self) -> dict[int, str]:
        """Category id to name, by id: the n-th is label n, counted from 1."""
        return {
            entry["id"]: entry["name"] for entry in sorted(self.content["categories"], key=lambda entry: entry["id"])
        }

    def annotations(self) -> list[Annotation]:
        """All images, those without objects too, in the file's order. Errors name the file and the record."""
        labels = {category: label for label, category in enumerate(self.categories, start=1)}
        objects = defaultdict(list)
        for record in self.content["annotations"]:
            if record["category_id"] not in labels:
                known = ", ".join(map(str, labels))
                raise ValueError(
                    f"{self.file}: annotation {record['id']} of image {record['image_id']} has category "
                    f"{record['category_id']}, which is none of {known}."
                )
            x, y, width, height = map(float, record["bbox"])
            crowd, difficult = bool(record.get("iscrowd", 0)), bool(record.get("difficult", 0))
            box = (x, y, x + width, y + height)
            objects[record["image_id"]].append((box, labels[record["category_id"]], difficult, crowd))
        present = {file.name for file in self.images.iterdir()}
        return [self._annotation(image, objects.get(image["id"], []), present) for image in self.content["images"]]

    def _annotation(self, image: dict[str, Any], objects: list[Any], present: set[str]) -> Annotation:
        path = self.images / image["file_name"]
        if image["file_name"] not in present and not path.is_file():
            raise FileNotFoundError(f"{self.file}: image {image['id']} is missing, {path} does not exist.")
        return annotate(path, str(image["id"]), (image["height"], image["width"]), objects, self.file)


class COCO:
    """COCO 2017, or any data set in its format.

    Crowd regions keep their mark: no target of a loss, and honoured by evaluation. A record may carry VOC's
    ``difficult`` beside COCO's own fields.

    Args:
        root: the folder that the following are relative to.
        download: fetch COCO 2017's archives (19 GB) where its files are missing.
        train, val, test: (json file, folder of images); None: there is no such split. COCO's own val2017 is ``test``
            here: numbers are measured on it, never chosen by it.
        skip_unannotated: leave out images that the json file lists without any annotation, from every split. Then no
            false positive on them counts, as in the published RobustDet code; ``test_split`` says so.
    """

    metric: Literal["voc", "coco", "area"] = "coco"

    def __init__(
        self,
        root: str | Path,
        download: bool = False,
        train: tuple[str, str] | list[str] | None = ("annotations/instances_train2017.json", "train2017"),
        val: tuple[str, str] | list[str] | None = None,
        test: tuple[str, str] | list[str] | None = ("annotations/instances_val2017.json", "val2017"),
        skip_unannotated: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.name = self.root.resolve().name
        self.download = download
        self.skip_unannotated = skip_unannotated
        chosen = {"train": train, "val": val, "test": test}
        self.files = {
            split: COCOFile(self.root / pair[0], self.root / pair[1]) for split, pair in chosen.items() if pair
        }
        if not self.files:
            raise ValueError(f"{self.name}: neither train nor val nor test is given.")

    @property
    def category_ids(self) -> list[int]:
        """COCO's id of label n at place n - 1, for result files."""
        return list(self._any_file.categories)

    @property
    def classes(self) -> list[str]:
        return list(self._any_file.categories.values())

    @property
    def test_split(self) -> str:
        if "test" not in self.files:
            return f"{self.name}: no test split"
        return f"{self.name}: {self.files['test'].images.name}{', annotated images' if self.skip_unannotated else ''}"

    @property
    def _any_file(self) -> COCOFile:
        return self.files.get("test") or next(iter(self.files.values()))  # test first: it is the small one

    def prepare(self) -> None:
        paths = [path for file in self.files.values() for path in (file.file, file.images)]
        missing = [path for path in paths if not path.exists()]
        if self.download:
            for name in self._needed_archives(missing):
                fetch(COCO_ARCHIVES[name], self.root)
        elif missing:
            raise FileNotFoundError(
                f"No COCO data in {self.root}: {', '.join(map(str, missing))} missing. "
                f"data.root=PATH names another folder, data.download=true fetches COCO 2017 (19 GB)."
            )

    def _needed_archives(self, missing: list[Path]) -> list[str]:
        needed = {"annotations" if path.suffix == ".json" else path.name for path in missing}
        for name in needed - set(COCO_ARCHIVES):
            raise ValueError(f"No archive has {self.root / name}.{unknown(name, COCO_ARCHIVES)}")
        return sorted(needed | {name for name, archive in COCO_ARCHIVES.items() if archive.is_unfinished(self.root)})

    def annotations(self, split: Split) -> list[Annotation] | None:
        if split not in self.files:
            return None
        file = self.files[split]
        if file.categories != self._any_file.categories:
            raise ValueError(f"{file.file} and {self._any_file.file} have different categories.")
        annotations = file.annotations()
        if not self.skip_unannotated:
            return annotations
        annotated = [annotation for annotation in annotations if annotation.is_annotated]
        if not annotated:
            raise ValueError(f"{file.file} annotates none of its {len(annotations)} images.")
        return annotated
