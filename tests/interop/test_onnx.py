"""An ONNX file as a detector; needs onnx and onnxruntime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustdet.interop.black_box import BlackBox
from robustdet.interop.onnx_file import OnnxFile

SIZE = 16


def graph(file: Path, shape: list[int | str]) -> Path:
    """Finds one box, of the whole image in fractions, whose score is the brightest value / 255, and a filling row."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper, kinds = onnx.helper, onnx.TensorProto
    batch = len(shape) == 4
    lead = [1] if batch else []
    constants = {
        "box": helper.make_tensor("b", kinds.FLOAT, [*lead, 2, 4], [0, 0, 1, 1] * 2),
        "label": helper.make_tensor("l", kinds.INT64, [*lead, 2], [0, 0]),
        "fill": helper.make_tensor("f", kinds.FLOAT, [*lead, 1], [0]),
        "byte": helper.make_tensor("y", kinds.FLOAT, [], [255]),
    }
    nodes = [helper.make_node("Constant", [], [name], value=value) for name, value in constants.items()]
    axes = helper.make_tensor("axes", kinds.INT64, [3], [1, 2, 3] if batch else [0, 1, 2])
    nodes += [
        helper.make_node("Constant", [], ["axes"], value=axes),
        helper.make_node("ReduceMax", ["images", "axes"], ["most"], keepdims=0),
    ]
    column = helper.make_tensor("column", kinds.INT64, [2 if batch else 1], [-1, 1] if batch else [1])
    nodes += [
        helper.make_node("Constant", [], ["column"], value=column),
        helper.make_node("Reshape", ["most", "column"], ["each"]),
        helper.make_node("Div", ["each", "byte"], ["score"]),
        helper.make_node("Concat", ["score", "fill"], ["conf"], axis=-1),
    ]
    outputs = [
        helper.make_tensor_value_info("box", kinds.FLOAT, None),
        helper.make_tensor_value_info("conf", kinds.FLOAT, None),
        helper.make_tensor_value_info("label", kinds.INT64, None),
    ]
    inputs = [helper.make_tensor_value_info("images", kinds.FLOAT, shape)]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save(made, file)
    return file


@pytest.mark.parametrize("shape", [[1, 3, SIZE, SIZE], [3, SIZE, SIZE]])
def test_a_file_is_a_detector_in_our_units(tmp_path: Path, shape: list[int | str]):
    file = graph(tmp_path / "mine.onnx", shape)
    function = OnnxFile(file, boxes="box", scores="conf", labels="label", scale=255, box_scale=SIZE, first_label=0)
    detector = BlackBox(function=function, input_size=SIZE, name="mine", classes=["thing"]).eval()
    assert detector.file == file
    images = torch.full((2, 3, SIZE, SIZE), 0.25)
    images[1, 0, 3, 3] = 0.5
    found = detector.detect(detector(images))
    assert [one.scores.tolist() for one in found] == [pytest.approx([0.25]), pytest.approx([0.5])]
    assert [one.boxes.tolist() for one in found] == [[[0, 0, SIZE, SIZE]]] * 2
    assert [one.labels.tolist() for one in found] == [[1]] * 2
    with pytest.raises(ValueError, match=r"mine\.onnx has no output boxes; it has box, conf, label"):
        OnnxFile(file, scores="conf", labels="label")


def test_a_file_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx does not exist; expected an ONNX file"):
        OnnxFile(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no graph", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.onnx (cannot be read by onnxruntime|needs onnxruntime: pip install)"):
        OnnxFile(tmp_path / "text.onnx")
