"""Notebooks are stored without outputs and run, with no cell changed but the settings'. The detectors are untrained."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from hydra.utils import instantiate
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from omegaconf import DictConfig, OmegaConf

from notebooks.study import newest
from robustdet.runs.run import ENDED, Run

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = {
    "any_detector": "IMAGES, STEPS, SIDE, OUTPUT = 2, 1, 64, {output!r}",
    "attack_a_photograph": "DETECTOR = {robustdet!r}\nSTEPS = [0, 2]\nPHOTO = None",
    "read_the_discriminator": "DETECTOR = {robustdet!r}\nIMAGES, STEPS = 2, 1",
    "figures_3_and_4": "DETECTORS = {{'SSD': {std!r}, 'RobustDet': {robustdet!r}}}\n"
    "PAIRS, BATCH_SIZE, IMAGES, STEPS = 1, 2, 2, 1",
}
PICTURES = {"any_detector": 1, "attack_a_photograph": 3, "read_the_discriminator": 2, "figures_3_and_4": 2}


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def untrained(cfg: DictConfig, run: Path) -> str:
    """A checkpoint of initial weights, in the folder that its training would have left."""
    Run(run).begin({}, OmegaConf.to_yaml(cfg, resolve=True))
    classes = len(instantiate(cfg.data).classes)
    state = instantiate(cfg.model, num_classes=classes).state_dict()
    (run / "checkpoints").mkdir()
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in state.items()}}, run / "checkpoints" / "final.ckpt"
    )
    Run(run).end({"experiment": cfg.name, "checkpoint": "checkpoints/final.ckpt", "identity": "a", "recipe": "b"})
    return str(run / "checkpoints" / "final.ckpt")


def test_every_notebook_is_tested():
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == NOTEBOOKS.keys() == PICTURES.keys()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_outputs_and_asks_for_one_cell_alone(name: str):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell for cell in code if cell.metadata.get("tags") == ["settings"]] == code[:1]


@pytest.mark.slow
def test_the_notebooks_run(compose: Callable[..., DictConfig], tmp_path: Path):
    """One after the other in one kernel, whose imports take seconds, and which is emptied before each."""
    runs = {
        method: untrained(compose("train", f"experiment=shapes_{method}"), tmp_path / method)
        for method in ("std", "robustdet")
    }
    cells: dict[str, list[NotebookNode]] = {}
    for name, settings in NOTEBOOKS.items():
        cells[name] = [new_code_cell("%reset -f"), *read(name).cells]
        chosen = next(cell for cell in cells[name][1:] if cell.cell_type == "code")
        chosen.source += "\n" + settings.format(**runs, output=str(tmp_path / "any"))
    together = new_notebook(cells=[cell for each in cells.values() for cell in each])
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(together, timeout=300, resources=resources, kernel_name="python3").execute()
    for name, each in cells.items():
        outputs = [output for cell in each for output in cell.get("outputs", [])]
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        assert len(pictures) == PICTURES[name]


def test_the_newest_finished_run_of_an_experiment_is_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no finished run of shapes_std below .*make demo"):
        newest("shapes_std", tmp_path)
    for age, (folder, experiment) in enumerate([("old", "shapes_std"), ("new", "shapes_std"), ("other", "shapes_cfr")]):
        run = Run(tmp_path / folder)
        run.checkpoints.mkdir(parents=True)
        run.final.touch()
        run.end({"experiment": experiment, "checkpoint": "checkpoints/final.ckpt", "identity": "a", "recipe": "b"})
        os.utime(run.folder / ENDED, (age, age))
    assert newest("shapes_std", tmp_path) == tmp_path / "new" / "checkpoints" / "final.ckpt"
