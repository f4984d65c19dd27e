"""`docs/train_any_detector.md` is run as it stands, with fewer updates and steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "train_any_detector.md"


@pytest.mark.slow
def test_what_the_page_does_in_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(blocks)
    for many, few in {
        "updates=1000": "updates=1",
        "max_steps=1000": 'max_steps=1, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False',
        '"paths.run=there"': '"paths.run=there", "trainer=cpu"',
        "attack.steps=5": "attack.steps=1",
        "batch_size=4": "batch_size=1",
        "min_size=96": "min_size=32",
    }.items():
        assert many in code
        code = code.replace(many, few)
    monkeypatch.chdir(tmp_path)
    said: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), said)
    assert (tmp_path / "there" / "checkpoints" / "final.ckpt").is_file()
    assert said["trainer"].global_step == 1  # type: ignore[attr-defined]
