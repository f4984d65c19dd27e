"""An ONNX file as a function for `BlackBox`, run by onnxruntime (the extra `onnx`)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from robustdet.errors import InputError, MissingFileError
from robustdet.types import Images


class OnnxFile:
    """images → what the file's graph finds, for graphs with their post-processing inside.

    The graph has one input, [B, 3, S, S], or [3, S, S] (as torchvision's exports have) or [1, 3, S, S], which is then
    asked image by image. RGB in [0, 1] is multiplied by ``scale``. Its outputs are named by ``boxes``, ``scores`` and
    ``labels``: [D, 4] and [D] of one image, or [B, D, 4] and [B, D]; ``box_scale`` makes pixels of the boxes (the side
    of the input, where they are fractions), ``first_label`` is the label of the first class. Rows with a score of 0 are
    filling. ``classes``, names of labels 1..C, are those in the file's metadata, as `robustdet.interop.export` writes
    them; None where it has none.

    Args:
        file: the .onnx.
        providers: onnxruntime's execution providers, the best one first.
    """

    def __init__(
        self,
        file: str | Path,
        boxes: str = "boxes",
        scores: str = "scores",
        labels: str = "labels",
        scale: float | int = 1,
        box_scale: float | int = 1,
        first_label: int = 1,
        providers: list[str] | None = None,
    ) -> None:
        self.file = Path(file)
        if not self.file.is_file():
            raise MissingFileError(f"{file} does not exist; expected an ONNX file")
        self._session = _session(self.file, providers)
        self.classes = _classes(self._session, self.file)
        self.outputs = [boxes, scores, labels]
        self.scale, self.box_scale, self.first_label = scale, box_scale, first_label
        has = [output.name for output in self._session.get_outputs()]
        missing = [name for name in self.outputs if name not in has]
        if missing:
            raise InputError(f"{file} has no output {', '.join(missing)}; it has {', '.join(has)}")
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) not in (3, 4):
            shapes = ", ".join(f"{one.name} {one.shape}" for one in inputs)
            raise InputError(f"{file}: expected one input, [B, 3, S, S] or [3, S, S], got {shapes}")
        self._input, self._rank = inputs[0].name, len(inputs[0].shape)
        self._one_by_one = self._rank == 3 or inputs[0].shape[0] == 1

    def __call__(self, images: Images) -> list[dict[str, np.ndarray]]:
        pixels = images.cpu().numpy().astype(np.float32) * np.float32(self.scale)
        if not self._one_by_one:
            return [self._named(*of_image) for of_image in zip(*self._run(pixels), strict=True)]
        return [self._named(*self._alone(self._run(one if self._rank == 3 else one[None]))) for one in pixels]

    def _run(self, pixels: np.ndarray) -> list[np.ndarray]:
        return self._session.run(self.outputs, {self._input: pixels})

    @staticmethod
    def _alone(outputs: list[np.ndarray]) -> list[np.ndarray]:
        """Without the batch of one, where the graph keeps it."""
        return [output[0] if outputs[0].ndim == 3 else output for output in outputs]

    def _named(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        real = scores > 0
        return {
            "boxes": boxes[real] * self.box_scale,
            "scores": scores[real],
            "labels": labels[real] + (1 - self.first_label),
        }


def side_of(file: str | Path) -> int | None:
    """Height and width, pixels, of the square images that a file's graph takes; None where it does not say, or
    cannot be read: who then reads it says why.
    """
    try:
        return _side(Path(file), Path(file).stat().st_mtime_ns)
    except (OSError, InputError):
        return None


@cache
def _side(file: Path, changed: int) -> int | None:
    shapes = [one.shape for one in _session(file).get_inputs()]
    sides = set(shapes[0][-2:]) if len(shapes) == 1 else set()
    return next((side for side in sides if len(sides) == 1 and isinstance(side, int)), None)


def _session(file: Path, providers: list[str] | None = None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{file} needs onnxruntime: pip install 'robustdet[onnx]'") from error
    try:
        return onnxruntime.InferenceSession(file, providers=providers or ["CPUExecutionProvider"])
    except Exception as error:  # its own hierarchy, below no public name
        raise InputError(f"{file} cannot be read by onnxruntime: {error}") from error


def _classes(session: Any, file: Path) -> list[str] | None:
    text = session.get_modelmeta().custom_metadata_map.get("classes")
    if text is None:
        return None
    try:
        classes = json.loads(text)
    except ValueError:
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{file}: its metadata say classes={text}, expected a JSON list of names")
    return classes
