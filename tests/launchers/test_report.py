"""The command, and its page in a real browser: no complaint on the console, nothing fetched, fit for a phone."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from robustdet.analysis.table import TableSpec
from robustdet.cli.building import table_specs
from robustdet.cli.composition import CONF, check
from robustdet.cli.report import report
from robustdet.errors import InputError
from tests.analysis.evaluations import write, write_everything
from tests.evaluation import scenes

BROWSER = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell"))
    ),
    None,
)
in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome executable on the PATH")
PHONE, DESKTOP = 390, 1280  # pixels


def configuration(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("report", list(overrides))
    check(cfg, "report")
    return cfg


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_everything(folder / "outputs")
    return report(configuration(f"folders=[{folder / 'outputs'}]", f"output={folder / 'written'}"))


def test_a_page_is_no_folder(tmp_path: Path):
    write(tmp_path / "outputs")
    with pytest.raises(InputError, match=r"output=.*mine\.html: expected a folder\. The page in it is called report"):
        report(configuration(f"folders=[{tmp_path / 'outputs'}]", f"output={tmp_path / 'mine.html'}"))
    assert not (tmp_path / "mine.html").exists()


def browse(content: str, folder: Path, *options: str) -> tuple[str, list[str]]:
    """The page's DOM after loading, and the lines on its console."""
    file = folder / "page.html"
    file.write_text(content, encoding="utf-8")
    assert BROWSER is not None
    # --no-sandbox: containers and root; the proxy leads nowhere, so that whatever would be fetched fails
    switches = [
        "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--proxy-server=127.0.0.1:9",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", *options,
    ]  # fmt: skip
    done = subprocess.run(
        [BROWSER, *switches, file.as_uri()],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
        env=os.environ | {"HOME": str(folder)},
    )
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]


def measured(page: Path, width: int, folder: Path, *options: str) -> dict[str, str]:
    """The page, all details open, in a window of this width: how wide it gets, its background, its broken pictures."""
    opened = html.escape(page.read_text(encoding="utf-8").replace("<details>", "<details open>"), quote=True)
    script = """
      const inside = document.querySelector('iframe').contentDocument;
      const broken = [...inside.images].filter(image => !image.complete || image.naturalWidth === 0).length;
      const background = inside.defaultView.getComputedStyle(inside.body).backgroundColor;
      document.title = `${inside.documentElement.scrollWidth}|${background}|${broken}|${inside.images.length}`;
    """
    frame = f'<iframe style="width: {width}px; height: 800px" srcdoc="{opened}"></iframe>'
    dom, _ = browse(f"<!doctype html>{frame}<script>onload = () => {{{script}}}</script>", folder, *options)
    found = re.search(r"<title>(.*?)\|(.*?)\|(.*?)\|(.*?)</title>", dom)
    assert found, dom[:500]
    return dict(zip(("width", "background", "broken", "pictures"), found.groups(), strict=True))


def test_the_command_writes_a_page_and_tables_and_names_what_is_damaged(tmp_path: Path, capsys):
    write(tmp_path / "outputs" / "run")
    damaged = write(tmp_path / "outputs" / "damaged", "pgd_cls")
    damaged.write_text("{", encoding="utf-8")
    written = report(configuration(f"folders=[{tmp_path / 'outputs'}]", f"output={tmp_path / 'report'}", "title=Ours"))
    printed = capsys.readouterr()
    assert f"cannot be read, and is missing from the report: {damaged}: not a JSON file" in printed.err
    assert f"1 records. Page: {written}" in printed.out
    assert "<h1>Ours: robustness report</h1>" in written.read_text(encoding="utf-8")
    assert "70.0 (74.8)" in (tmp_path / "report" / "tables" / "table1.md").read_text(encoding="utf-8")


def test_a_crippled_attack_enters_a_table_with_a_mark_and_what_differs(tmp_path: Path):
    def full(attack: str, **changes: str | int | float) -> dict[str, Any]:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            fields = hydra.compose("evaluate", ["suite=paper"]).suite.attacks[attack]
        return OmegaConf.to_container(fields, resolve=True) | changes  # type: ignore[return-value,operator]

    run = tmp_path / "outputs" / "voc_cfr" / "run"
    write(run, "pgd_cls", 0.7, attack_settings=full("pgd_cls", steps=1, step_size="0.5/255"))
    write(run, "pgd_loc", 0.491, attack_settings=full("pgd_loc"))
    report(configuration(f"folders=[{tmp_path / 'outputs'}]", f"output={tmp_path / 'written'}"))
    table = (tmp_path / "written" / "tables" / "table1.md").read_text(encoding="utf-8")
    assert "70.0 [a] (45.9) | 49.1 (49.1)" in table
    assert r"[a] other\_settings: pgd\_cls: steps 1 instead of 20, step\_size 0.5/255 instead of 8/255" in table


def test_empty_outputs_are_a_clear_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no records .*: nothing to report"):
        report(configuration(f"folders=[{tmp_path}]", f"output={tmp_path / 'report'}"))
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("spec", table_specs(), ids=lambda spec: spec.name)
def test_a_tables_rule_is_that_of_its_data(spec: TableSpec, tmp_path: Path):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"experiment={spec.rows[0].experiment}", f"protocol={spec.protocol}", f"paths.data={tmp_path}"]
        cfg = hydra.compose("evaluate", overrides)
    metric = instantiate(cfg.protocol.metrics[instantiate(cfg.data).metric], num_classes=3)
    assert metric(*scenes.scene(5, 3, 0, difficult=0)).rule == spec.rule


@pytest.mark.slow
@in_browser
def test_the_browser_has_nothing_to_complain_about(page: Path, tmp_path: Path):
    content = page.read_text(encoding="utf-8")
    dom, console = browse(content, tmp_path)
    assert "RobustDet*" in dom
    assert console == []
    # the browser would have said so
    _, console = browse(content.replace("<h1>", '<img src="https://example.org/x.png"><h1>'), tmp_path)
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


@in_browser
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_is_no_wider_than_the_window_and_shows_its_pictures(page: Path, tmp_path: Path, width: int):
    found = measured(page, width, tmp_path)
    assert int(found["width"]) <= width
    assert (found["pictures"], found["broken"]) == ("2", "0")


@in_browser
def test_the_page_is_light_or_dark_as_its_reader_likes(page: Path, tmp_path: Path):
    light = measured(page, DESKTOP, tmp_path)["background"]
    dark = measured(page, DESKTOP, tmp_path, "--blink-settings=preferredColorScheme=0")["background"]
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 24, 28)")
