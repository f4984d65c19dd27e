"""The arrows between rooms hold: who may import whom, and that Hydra stays with the commands."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "robustdet"
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "trust": set(),
    "types": set(),
    "progress": set(),
    "ranks": set(),
    "processor": set(),
    "exact": set(),
    "graphs": set(),
    "modes": set(),
    "detection": {"types", "graphs"},
    "attacks": {"types", "exact", "modes", "ranks"},
    "data": {"types", "progress"},
    "evaluation": {"types", "exact", "attacks"},
    "defences": {"types", "ranks", "graphs", "detection", "attacks"},
    "interop": {"types", "modes", "data", "detection", "attacks", "defences"},
    "analysis": {"types", "exact", "progress", "evaluation", "attacks", "defences"},
    "training": {
        "types",
        "trust",
        "progress",
        "ranks",
        "graphs",
        "detection",
        "attacks",
        "data",
        "evaluation",
        "defences",
        "analysis",
        "interop",
    },
}
MAY_IMPORT["runs"] = {"training", "data", "detection"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["lightning"] = set(MAY_IMPORT)
MAY_IMPORT["api"] = set(MAY_IMPORT)  # what other projects call: nobody here does
EVERYBODY = {"errors", "files"}  # what went wrong is said, and a file is written, in the same way everywhere
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(file: Path) -> set[str]:
    package = ["robustdet", *file.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    return found


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(file: Path):
    if room(file) == "__init__":
        return
    modules = imported_modules(file)
    rooms = {module.split(".")[1] for module in modules if module.startswith("robustdet.")}
    assert rooms - {room(file)} <= MAY_IMPORT[room(file)] | EVERYBODY
    foreign = {"src"} if room(file) in {"cli", "api"} else {"hydra", "omegaconf", "src"}
    assert not {module for module in modules if module.split(".")[0] in foreign}


def test_detection_knows_nothing_of_attacks():
    for file in (PACKAGE / "detection").glob("*.py"):
        assert "adversarial" not in file.read_text(encoding="utf-8").lower(), file


def test_what_python_m_starts_is_three_lines():
    for file in PACKAGE.parent.glob("*.py"):
        name = file.stem
        assert file.read_text(encoding="utf-8").splitlines()[1:] == [
            "",
            f"from robustdet.cli.{name} import main",
            "",
            'if __name__ == "__main__":',
            "    main()",
        ]


def test_no_file_without_a_subject():
    assert not [file for file in FILES if file.stem in {"utils", "misc", "helpers", "common"}]


def test_objects_are_made_of_a_config_in_one_place():
    """Hydra's own `instantiate` wraps errors in its machinery: `cli/instantiating.py` says what is wrong instead."""
    makers = [file for file in FILES if re.search(r"hydra\.utils(\.| import .*)instantiate", file.read_text("utf-8"))]
    assert [file.name for file in makers] == ["instantiating.py"]
