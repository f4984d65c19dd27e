"""COCO as a data source: folders of images and ``annotations/instances_<split>.json``, or any json in that format.

Its 80 category ids have gaps; labels are 1..C in the order of the ids.

T.-Y. Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from robustdet.data.annotation import Annotation, Split, unknown
from robustdet.data.coco_file import COCOFile
from robustdet.data.download import COCO_ARCHIVES, fetch
from robustdet.data.files import one_form
from robustdet.data.problems import Problems
from robustdet.errors import InputError, MissingFileError


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
        classes: names of the labels 1..C; None is the categories in the order of their ids. A detector's own (an error
            shows them) measure it on a file that has some of them only, or in another order.
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
        classes: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.name = self.root.resolve().name
        self.download = download
        self.skip_unannotated = skip_unannotated
        self._classes = None if classes is None else [one_form(str(name)) for name in classes]
        chosen = {"train": train, "val": val, "test": test}
        self.files = {
            split: COCOFile(self.root / pair[0], self.root / pair[1]) for split, pair in chosen.items() if pair
        }
        if not self.files:
            raise InputError(f"{self.name}: neither train nor val nor test is given.")

    @property
    def category_ids(self) -> list[int]:
        """COCO's id of label n at place n - 1, for result files."""
        ids = {name: key for key, name in self._any_file.categories.items()}
        return [ids[name] for name in self.classes]

    @property
    def classes(self) -> list[str]:
        return list(self._any_file.categories.values()) if self._classes is None else self._classes

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
            raise MissingFileError(
                f"No COCO data in {self.root}: {', '.join(map(str, missing))} missing. "
                f"data.root=PATH names another folder, data.download=true fetches COCO 2017 (19 GB)."
            )

    def _needed_archives(self, missing: list[Path]) -> list[str]:
        needed = {"annotations" if path.suffix == ".json" else path.name for path in missing}
        for name in needed - set(COCO_ARCHIVES):
            raise InputError(f"No archive has {self.root / name}.{unknown(name, COCO_ARCHIVES)}")
        return sorted(needed | {name for name, archive in COCO_ARCHIVES.items() if archive.is_unfinished(self.root)})

    def annotations(self, split: Split, problems: Problems | None = None) -> list[Annotation] | None:
        if split not in self.files:
            return None
        file = self.files[split]
        self._require_classes(file)
        told = Problems() if problems is None else problems
        annotations = file.annotations(self.classes, told)
        if problems is None:
            told.settle()
        if not self.skip_unannotated:
            return annotations
        annotated = [annotation for annotation in annotations if annotation.is_annotated]
        if not annotated:
            raise InputError(f"{file.file} annotates none of its {len(annotations)} images.")
        return annotated

    def _require_classes(self, file: COCOFile) -> None:
        """Raise InputError where a file has a class that has no label, or, unless they are given, lacks one."""
        names, classes = list(file.categories.values()), self.classes
        if set(names) == set(classes) or (self._classes is not None and set(names) < set(classes)):
            return
        whose = self._any_file.file if self._classes is None else "data.source.classes"
        alone = [
            f"{where} alone has {', '.join(one for one in mine if one not in others)}"
            for where, mine, others in ((file.file, names, classes), (whose, classes, names))
            if set(mine) - set(others)
        ]
        raise InputError(
            f"{file.file} and {whose} have different categories: {'; '.join(alone)}. "
            "data.source.classes='[a,b,…]' says what the labels are where a file has some of them only."
        )
