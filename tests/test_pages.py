"""The pages that lead a stranger through something are followed word by word, in a copy of the repository.

A page's file blocks have their path on a line of its own above them; each ``bash`` block is a command. Nothing is
changed but how much is computed. Commands in all other pages are composed (`tests.page_commands`).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launchers.commands import FEW
from tests.page_commands import (
    PAGES,
    Command,
    NoSuchThingError,
    blocks,
    commands,
    settings,
    settings_in_text,
    verify,
)
from tests.slowness import quick
from tests.source_texts import is_printed

ROOT = Path(__file__).parent.parent
FILE = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```bash\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MANY = ("README", "train_voc_and_coco", "any_detector")  # commands
FEW_IMAGES = [field for field in FEW if field.startswith("data.source.")]
FEW_UPDATES = [
    *(field for field in FEW if field not in FEW_IMAGES),
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
]
SMALLER = {
    "src.train": [*FEW_IMAGES, *FEW_UPDATES, "trainer=cpu"],
    "src.evaluate": [
        *(field for field in FEW if field.startswith("data.")),
        "suite.max_images=2",
        "pictures=0",
        "trainer=cpu",
    ],
}
DRIVER = """
import json, runpy, sys

for module, *arguments in json.loads(sys.argv[1]):  # all in one process: imports are most of what they cost
    print("python -m", module, *arguments, flush=True)
    sys.argv[1:] = arguments
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
"""


def copied(folder: Path) -> Path:
    """A copy of the repository, as far as a page needs it."""
    for name in ("src", "conf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def written(page: str, folder: Path) -> list[list[str]]:
    """Writes the page's files into ``folder``; its commands, computing less."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for path, content in FILE.findall(text):
        assert not (folder / path).exists(), f"{page} edits {path}, which is there already"
        (folder / path).write_text(content, encoding="utf-8")
    commands = [shlex.split(command.replace("\\\n", " ")) for command in COMMAND.findall(text)]
    assert all(command[:2] == ["python", "-m"] for command in commands)
    return [smaller(module, arguments) for _, _, module, *arguments in commands]


def smaller(module: str, arguments: list[str]) -> list[str]:
    fields = SMALLER.get(module, [])
    if any("boxes_csv" in argument or "outputs/drawn" in argument for argument in arguments):
        fields = [field for field in fields if field not in FEW_IMAGES]  # which it has no numbers of
    return [module, *arguments, *fields]


def run(commands: list[list[str]], folder: Path) -> str:
    """What they print, one after the other."""
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder)]),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        },
        capture_output=True,
        encoding="utf-8",
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def records(folder: Path) -> dict[str, dict]:
    return {
        file.stem: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("evaluation/*/records/*.json")
    }


FOLLOWED = ("add_an_attack", "add_a_method", "add_a_detector", "any_detector", "add_a_data_set", "add_a_metric")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the repository where all of ``FOLLOWED`` were followed in one process; what was printed, by page."""
    folder = copied(tmp_path_factory.mktemp("pages"))
    commands = {page: written(page, folder) for page in FOLLOWED}
    once = [command for page in FOLLOWED for command in commands[page]]
    said = re.split(r"^python -m .*$", run(once, folder), flags=re.MULTILINE)[1:]
    parts = iter(said)
    return folder, {page: "".join(next(parts) for _ in commands[page]) for page in FOLLOWED}


def passed(said: str) -> int:
    assert not re.search(r"\d+ (failed|error)", said), said
    found = re.search(r"(\d+) passed", said)
    assert found, said
    return int(found[1])


@pytest.mark.slow
def test_an_attack_is_added_as_the_page_says(together: tuple[Path, dict[str, str]]):
    folder, said = together
    assert passed(said["add_an_attack"]) >= 40
    evaluated = records(folder / "outputs" / "mi_fgsm")
    assert {"clean", "pgd_cls", "pgd_loc", "mi_fgsm", "margin"} <= evaluated.keys()
    assert evaluated["mi_fgsm"]["attack_settings"]["decay"] == 1.0
    assert evaluated["margin"]["attack_settings"]["steps"] == 5
    assert (folder / "outputs" / "pgd_margin" / "checkpoints" / "final.ckpt").is_file()
    assert "Store:    no image was there already" in said["add_an_attack"]

    code = folder / "src" / "robustdet" / "attacks" / "mi_fgsm.py"
    code.write_text(
        code.read_text(encoding="utf-8").replace("momentum + gradient", "momentum - gradient"), encoding="utf-8"
    )
    checkpoint = "ckpt_path=outputs/mi_fgsm/checkpoints/final.ckpt"
    again = ["src.evaluate", checkpoint, "attack=mi_fgsm", "attack.steps=5", *SMALLER["src.evaluate"]]
    assert "Store:    clean: 2 of 2, mi_fgsm: 0 of 2 images were there already" in run([again], folder)


@pytest.mark.slow
def test_a_method_is_added_as_the_page_says(together: tuple[Path, dict[str, str]]):
    folder, said = together
    assert passed(said["add_a_method"]) >= 20
    assert {"clean", "pgd_cls", "pgd_loc"} <= records(folder / "outputs" / "trades").keys()
    assert "L_trades" in next((folder / "outputs" / "trades").rglob("metrics.csv")).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_detector_is_added_as_the_page_says(together: tuple[Path, dict[str, str]]):
    folder, said = together
    assert passed(said["add_a_detector"]) == 13
    assert {"clean", "pgd_cls", "pgd_loc"} <= records(folder / "outputs" / "mobile_ssd").keys()


@pytest.mark.slow
def test_ones_own_detector_is_attacked_as_the_page_says(together: tuple[Path, dict[str, str]]):
    folder, said = together
    assert passed(said["any_detector"]) == 8
    found = records(folder / "outputs" / "cells" / "shapes")
    assert {"clean", "pgd_cls", "pgd_loc"} <= found.keys()
    assert found["clean"]["run"]["method"] == "not trained here"
    assert found["pgd_cls"]["loss_rose"]["objective"] == 1.0


@pytest.mark.slow
def test_a_data_set_is_added_as_the_page_says(together: tuple[Path, dict[str, str]]):
    folder, said = together
    assert passed(said["add_a_data_set"]) == 3
    found = records(folder / "outputs" / "drawn")
    assert {"clean", "pgd_cls", "pgd_loc"} <= found.keys()
    assert found["clean"]["run"]["split"] == "drawn: test.csv"


@pytest.mark.slow
def test_a_metric_is_added_as_the_page_says(together: tuple[Path, dict[str, str]]):
    folder, said = together
    assert passed(said["add_a_metric"]) == 6
    assert "f1_0.5 under attack" in said["add_a_metric"]
    assert "2 of 2 images of each of 3 rows were there already" in said["add_a_metric"]
    suite = folder / "outputs" / "measured" / "evaluation" / "quick"
    rules = {
        json.loads(file.read_text(encoding="utf-8"))["ap_rule"]: file.parent.parent
        for file in suite.rglob("records/clean.json")
    }
    assert rules == {"area": suite, "f1_0.5": suite / "f1_0.5"}


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_the_readme_leads_to_the_page(page: Path):
    assert f"]({page.relative_to(ROOT)})" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", quick(PAGES, lambda page: page.stem not in MANY), ids=lambda page: page.stem)
def test_every_command_in_it_would_work(page: Path):
    text = page.read_text(encoding="utf-8")
    assert page.stem in FOLLOWED or "bash" not in dict(blocks(text)), f"nobody follows the bash blocks of {page.name}"
    for command in commands(page.name, text):
        verify(command)


NO_SETTINGS = {"encoding", "fullgraph", "key", "metric.iou"}  # Python's, PyTorch's, any, and a page's own


def test_every_setting_that_a_text_names_exists():
    known = settings() | NO_SETTINGS
    assert {"data", "loss.gamma", "trainer.devices", "hydra.launcher.n_jobs", "analysis.batch_size"} <= known
    for page in PAGES:
        for key, code in settings_in_text(page.read_text(encoding="utf-8")):
            assert key in known or key.startswith("hydra"), f"{page.name}: no yaml in conf sets {key}, of `{code}`"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python -m src.train experiment=voc_cfr los.gamma=0.3", "los"),
        ("python -m src.train experiment=voc_cfr loss.gamma=much", "expected a number"),
        ("python -m src.train -m experiment=voc_cfr,voc_nothing", "voc_nothing"),
        ("python -m src.evaluate ckpt_path=A.ckpt suite=stronger", "stronger"),
        ("python -m src.trian experiment=voc_cfr", "src.trian"),
        ("python -m benchmarks --quickly", "2"),
        ("make everything", "everything"),
        ("pip install .", "not marked with `# needs network`"),
        ("srun python -m src.train experiment=voc_cfr", "not marked with `# needs SLURM`"),
        ("srun python -m src.train experiment=voc_cfr trainer.gpus=8  # needs SLURM", "gpus"),
        ("curl https://example.org", "no test knows 'curl'"),
        ("make test  # needs luck", "luck"),
    ],
)
def test_a_command_that_would_not_work_is_found(text: str, message: str):
    (command,) = commands("a page", f"Do this:\n\n```sh\n{text}\n```\n")
    with pytest.raises(NoSuchThingError, match=re.escape(message)):
        verify(command)


def test_a_command_in_a_block_of_another_kind_is_found():
    for language in ("", "text", "console"):
        with pytest.raises(NoSuchThingError):
            list(commands("a page", f"```{language}\npython -m src.train experiment=voc_cfr\n```\n"))
    for block in ("loss.gamma=0.3 | 0.6    weights", "schedule=fuller    anew"):
        (command,) = commands("a page", f"```overrides\n{block}\n```\n")
        assert command == Command("a page", block.partition("    ")[0], overrides_only=True)
        with pytest.raises(NoSuchThingError):
            verify(command)


def test_errors_are_quoted_as_they_are_printed():
    rows = [
        line.split(" | ")[0]
        for line in (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    quotes = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]
    assert len(quotes) > 40
    assert not [quote for quote in quotes if not is_printed(quote)]
    assert not is_printed("the flux compensator is empty")


@pytest.mark.slow
def test_the_public_functions_do_as_the_page_says(tmp_path: Path):
    few = [*FEW, "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer=cpu", "paths.run=outputs/run"]
    code = "from PIL import Image\nImage.effect_noise((120, 80), 60).convert('RGB').save('photo.png')\n"
    code += "import sys\nfrom robustdet.cli.train import main\nmain()\n"
    blocks = PYTHON.findall((ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    assert len(blocks) == 4
    done = subprocess.run(
        [sys.executable, "-c", code + "\n".join(blocks), "experiment=shapes_std", *few],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "attacked (1, 3, 96, 96) 1" in done.stdout
    assert re.findall(r"^record (\w+)", done.stdout, re.MULTILINE) == ["clean", "noise"]
    assert "page page/report.html" in done.stdout
    assert (tmp_path / "outputs" / "shapes_std" / "Squares" / "evaluation" / "attack_noise_sign" / "records").is_dir()
    assert (tmp_path / "there" / "evaluation" / "attack_noise" / "records" / "noise.json").is_file()
