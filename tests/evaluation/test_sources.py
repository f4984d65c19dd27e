import functools
import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustdet.attacks import APGD, PGD, LInf, Transfer
from robustdet.attacks.objectives import a_cls, a_loc
from robustdet.evaluation import attacked, sources
from robustdet.evaluation.sources import digest_of
from tests.evaluation.quadrants import QuadrantDetector

FILES = {
    "mine_used": "FACTOR = 1\n",
    "mine_lazily_used": "",
    "mine_package.__init__": "",
    "mine_package.base": "class Base:\n    pass\n",
    "mine_package.attack": (
        "import torch\nimport mine_used\nfrom .base import Base\n"
        "class Attack(Base):\n    def __call__(self):\n        from mine_lazily_used import x\n"
    ),
    "mine_package.stranger": "x = 1\n",
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes these modules, some changed, and gives an attack that one of them defines."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(**changes):
        for name, text in (FILES | {name.replace("__", ".", 1): text for name, text in changes.items()}).items():
            file = tmp_path / f"{name.replace('.', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        for name in [name for name in sys.modules if name.startswith("mine_")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module("mine_package.attack").Attack()

    yield write
    for name in [name for name in sys.modules if name.startswith("mine_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("mine_used", True),
        ("mine_lazily_used", True),
        ("mine_package__base", True),
        ("mine_package__attack", True),
        ("mine_package__stranger", False),
    ],
)
def test_what_an_attack_is_made_of_counts_and_nothing_else(written, file, counts):
    before = digest_of(written())
    assert digest_of(written()) == before
    text = FILES[file.replace("__", ".")] + "# edited\n"
    assert (digest_of(written(**{file: text})) != before) is counts


def test_what_an_attack_holds_counts(written):
    mine, threat = written(), LInf("8/255")
    plain = digest_of(PGD(a_cls, threat, 1, "1/255"))
    for held in (mine, [mine], {"x": mine}, functools.partial(mine), mine.__call__, SimpleNamespace(deep=(mine,))):
        attack = PGD(a_cls, threat, 1, "1/255")
        attack.held = held
        assert digest_of(attack) != plain


def test_an_instance_is_its_class_and_other_values_are_settings(written):
    del written
    assert digest_of(PGD(a_cls, LInf("8/255"), 1, "1/255")) == digest_of(PGD(a_loc, LInf("4/255"), 9, "2/255"))
    assert digest_of(PGD(a_cls, LInf("8/255"), 1, "1/255")) != digest_of(APGD(a_cls, LInf("8/255"), 1))
    assert digest_of(None) == digest_of()


def test_the_code_of_an_outcome_is_what_makes_it_and_not_what_is_said_of_it():
    """So that a change of a check or a table costs no attack, and one of what is measured is never overlooked."""
    names = set(dict(sources._closure([attacked.__name__, PGD.__module__], {"robustdet"})))
    rooms = {"attacked", "measuring", "perturbation", "store"}
    assert {f"robustdet.evaluation.{name}" for name in rooms} | {"robustdet.types", "robustdet.attacks.pgd"} <= names
    assert not {
        name for name in names if name.rpartition(".")[2] in {"checks", "record", "pipeline", "summary", "apgd"}
    }


def test_libraries_count_by_their_version_alone():
    detector = QuadrantDetector()
    detector.layers = nn.Sequential(nn.Linear(1, 1))
    attack = Transfer(detector, PGD(a_cls, LInf("8/255"), 1, "1/255"))
    parts = {part.__module__ for part in sources._made_of(attack, {})}
    assert {"torch.nn.modules.linear", "tests.evaluation.quadrants", "robustdet.attacks.transfer"} <= parts
    names = set(dict(sources._closure(parts, {"robustdet", "tests"})))
    assert {name.partition(".")[0] for name in names} == {"robustdet", "tests"}


def test_a_class_without_a_file_counts_with_the_text_that_is_known(monkeypatch):
    def defined(value):
        text = f"class Cell:\n    value = {value}\n"
        namespace = {"__name__": "__main__"}
        exec(compile(text, f"<cell {value}>", "exec"), namespace)
        monkeypatch.setattr(sources.inspect, "getsource", lambda part: text)
        return namespace["Cell"]()

    assert digest_of(defined(1)) == digest_of(defined(1)) != digest_of(defined(2))


def test_tensors_hold_no_code():
    attack = PGD(a_cls, LInf("8/255"), 1, "1/255")
    before = digest_of(attack)
    attack.tensor = torch.zeros(2)
    assert digest_of(attack) == before


def test_a_library_outside_of_site_packages_is_a_library_and_nothing_is_imported(tmp_path, monkeypatch):
    """As `pip install --target` leaves it; a module that may only be looked at by a type checker is not run."""
    library = tmp_path / "target"
    (library / "borrowed").mkdir(parents=True)
    (library / "borrowed" / "__init__.py").write_text("", encoding="utf-8")
    (library / "borrowed" / "never_import_me.py").write_text("raise AssertionError", encoding="utf-8")
    info = library / "borrowed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: borrowed\nVersion: 1.0\n", encoding="utf-8")
    (info / "RECORD").write_text("borrowed/__init__.py,,\nborrowed/never_import_me.py,,\n", encoding="utf-8")
    own = tmp_path / "own"
    (own / "mine").mkdir(parents=True)
    (own / "mine" / "__init__.py").write_text("", encoding="utf-8")
    (own / "mine" / "part.py").write_text("raise AssertionError  # not imported either\n", encoding="utf-8")
    (own / "mine" / "attack.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import borrowed.never_import_me\n    import mine.part\n"
        "class Attack:\n    pass\n",
        encoding="utf-8",
    )
    for folder in (library, own):
        monkeypatch.syspath_prepend(str(folder))
    sources._installed.cache_clear()
    attack = importlib.import_module("mine.attack").Attack()
    before = sources.digest_of(attack)
    (library / "borrowed" / "never_import_me.py").write_text(
        "raise AssertionError  # another version", encoding="utf-8"
    )
    assert sources.digest_of(attack) == before
    (own / "mine" / "part.py").write_text("raise AssertionError  # edited", encoding="utf-8")
    assert sources.digest_of(attack) != before
    sources._installed.cache_clear()
