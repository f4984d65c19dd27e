"""What `pip install .` brings: built here, unpacked into an empty folder, and used from another one."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import robustdet
from tests.forks import COMMANDS, ROOT
from tests.launchers.commands import FEW

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOPMOST = re.compile(r"[A-Za-z0-9._-]+")
# Commands by their names, as a console script calls them, one after the other: imports are most of what they cost.
DRIVER = """
import json, shutil, sys
from importlib.metadata import distribution

scripts = {script.name: script for script in distribution("robustdet").entry_points} | {"remove": None}
for name, *arguments in json.loads(sys.argv[1]):
    sys.argv[:] = [name, *arguments]
    print("BEGIN", name, flush=True)
    shutil.rmtree(*arguments) if name == "remove" else scripts[name].load()()
import robustdet
print("LOADED", robustdet.__file__, robustdet.__version__)
"""


def build(kind: str, project: Path, output: Path) -> Path:
    """An sdist or a wheel of a project's folder, without a network: by the build backend, as pip calls it."""
    pytest.importorskip("setuptools", minversion="77", reason="no setuptools: nothing can be built, nothing is tested")
    output.mkdir()
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(output)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = output.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel, built from the sdist of a copy of the repository."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "copy"
    for name in ("src", "conf", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    with tarfile.open(build("sdist", copy, folder / "sdist")) as tar:
        tar.extractall(folder, filter="data")
    with zipfile.ZipFile(build("wheel", folder / f"robustdet-{robustdet.__version__}", folder / "wheel")) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *commands: list[str], **environment: str) -> str:
    """What installed commands print in ``folder``, which is no checkout, in one process: after its name, each."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"LOADED {installed / 'robustdet' / '__init__.py'} {robustdet.__version__}" in done.stdout
    return done.stdout


def files(folder: Path) -> set[str]:
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_holds_all_that_is_read_and_nothing_else(installed: Path):
    assert files(installed / "robustdet" / "conf") == files(ROOT / "conf")
    assert (installed / "robustdet" / "docs" / "flags.md").read_bytes() == (ROOT / "docs" / "flags.md").read_bytes()
    brought = files(ROOT / "src" / "robustdet")
    assert brought <= files(installed / "robustdet")
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"robustdet"}  # and its dist-info


@pytest.mark.slow
def test_commands_run_where_there_is_no_repository(installed: Path, tmp_path: Path):
    from PIL import Image

    Image.effect_noise((120, 80), 60).convert("RGB").save(tmp_path / "photo.png")
    updates = [
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "trainer=cpu",
        "paths.run=run",
        "paths.data=drawn",
    ]
    checkpoint = "ckpt_path=run/checkpoints/final.ckpt"
    own = "paths.data=drawn_anew"  # without it, nothing is drawn where a run says
    said = run(
        installed,
        tmp_path,
        ["robustdet-train", "experiment=shapes_std", *FEW, *updates],
        ["remove", "drawn"],  # a checkpoint and a picture are enough
        ["robustdet-predict", checkpoint, "image=photo.png", "~attack", "threshold=0.999", "trainer=cpu"],
        ["robustdet-evaluate", checkpoint, "attack=noise", "suite.max_images=2", "pictures=0", "trainer=cpu", own],
        ["robustdet-report", "folders=[run]", "output=page"],
    )
    predicted = said.partition("BEGIN robustdet-predict")[2].partition("BEGIN")[0]
    assert "photo.png (120 x 80 pixels), seen by shapes_std" in predicted
    assert not (tmp_path / "drawn").exists()
    assert "random_forward" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")  # of docs/flags.md


def test_every_command_is_a_script_and_a_launcher():
    assert PROJECT["scripts"] == {f"robustdet-{name}": f"robustdet.cli.{name}:main" for name in COMMANDS}
    for name in COMMANDS:
        assert (ROOT / "src" / f"{name}.py").is_file()


@pytest.mark.slow
def test_the_tab_key_completes_a_command(installed: Path, tmp_path: Path):
    line = "robustdet-train experiment=shapes_s"
    asked = [["robustdet-train", "-sc", what] for what in ("install=bash", "query=bash")]
    said = run(installed, tmp_path, *asked, COMP_LINE=line, COMP_POINT=str(len(line)))
    installs, _, completes = said.partition("BEGIN robustdet-train")[2].partition("BEGIN robustdet-train")
    assert "hydra_bash_completion robustdet-train" in installs
    assert completes.partition("LOADED")[0].split() == ["experiment=shapes_std"]


def test_importing_the_package_is_light():
    code = "import sys, robustdet; dir(robustdet); print(robustdet.__version__, *sys.modules)"
    version, *modules = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout.split()
    assert version == robustdet.__version__
    assert not {"torch", "numpy", "hydra", "omegaconf", "pytorch_lightning", "robustdet.api"} & set(modules)


def test_the_public_names_are_those_of_the_api():
    from robustdet import api

    for name in robustdet.__all__:
        if name != "__version__":
            assert getattr(robustdet, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="'robustdet' has no attribute 'optimise'"):
        robustdet.optimise  # noqa: B018


# What is imported is declared, and the other way round


def imported(folders: Iterable[str]) -> set[str]:
    """Top-level names of all that is imported there, by import statements and by yaml."""
    found: set[str] = set()
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"robustdet", "src", "tests", "benchmarks", "bundle", "notebooks"}


def distributions(modules: Iterable[str]) -> set[str]:
    known = packages_distributions()
    return {normal(known[module][0]) for module in modules if module in known}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: Iterable[str]) -> set[str]:
    return {normal(TOPMOST.match(requirement)[0]) for requirement in requirements}  # type: ignore[index]


# Not imported by name: why it is there all the same, docs/dependencies.md says
KEPT = {"torchmetrics"}
THROUGH = {"lightning-fabric": "pytorch-lightning", "pytest-xdist": "pytest"}  # one comes with the other


def test_what_the_package_imports_is_declared_and_what_is_declared_is_imported():
    used = {THROUGH.get(name, name) for name in distributions(imported(["src"]))}
    optional = [one for name in ("art", "onnx", "transformers") for one in PROJECT["optional-dependencies"][name]]
    assert used - declared([*PROJECT["dependencies"], *optional]) == set()
    assert declared(PROJECT["dependencies"]) - used == KEPT


def test_what_tests_and_benchmarks_import_is_declared():
    used = distributions(imported(["tests", "benchmarks", "bundle", "notebooks"]))
    extras = [one for name in ("dev", "gpu", "tensorboard") for one in PROJECT["optional-dependencies"][name]]
    assert {THROUGH.get(name, name) for name in used} - declared([*PROJECT["dependencies"], *extras]) == set()


def test_every_dependency_is_explained():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    requirements = [*PROJECT["dependencies"], *(one for of in PROJECT["optional-dependencies"].values() for one in of)]
    for requirement in requirements:
        name = TOPMOST.match(requirement)[0]  # type: ignore[index]
        if name != "robustdet":
            asked = requirement[len(name) :].strip() or "any"
            assert re.search(
                rf"^\| {re.escape(name)} \| `{re.escape(asked)}` \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE
            ), name
    rows = re.findall(r"^\| ([\w-]+) \| `", page, re.MULTILINE)
    assert {normal(row) for row in rows} == declared(requirements) - {"robustdet"}
