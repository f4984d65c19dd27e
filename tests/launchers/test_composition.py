"""Every group composes; a misspelt key, on the command line or in a yaml, names the nearest right one."""

import re
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf, open_dict

from robustdet.cli.composition import CONF, UnknownKeyError, check, hint_for_overrides

EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
TABLES = sorted((CONF / "table").glob("*.yaml"))
ROWS = ["std", "at_cls", "at_loc", "mtd", "mtd_warm", "cwat", "robustdet", "cfr", "robustdet_no_aid", "cfr_no_re"]


def compose(root: str, *overrides: str):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(root, [*overrides, "paths.run=run"])


@pytest.mark.parametrize("data", ["voc", "coco", "shapes"])
def test_every_row_has_its_experiment(data: str):
    assert {f"{data}_{row}" for row in ROWS} <= set(EXPERIMENTS)


@pytest.mark.parametrize("table", TABLES, ids=lambda file: file.stem)
def test_every_row_of_a_table_has_its_experiment(table: Path):
    assert {row["experiment"] for row in yaml.safe_load(table.read_text(encoding="utf-8"))["rows"]} <= set(EXPERIMENTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_says_what_it_is_and_how_to_run_it(experiment: str):
    head = [
        line
        for line in (CONF / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8").split("\n")
        if line[:1] == "#"
    ]
    assert any(line.startswith("# Cost: ") for line in head)
    assert f"# python -m src.train experiment={experiment}" in head


def paper_numbers() -> dict[str, tuple[str, str]]:
    """Experiment to its table and the numbers that `conf/table` has of it, as a header writes them."""
    found = {}
    for table in TABLES:
        spec = yaml.safe_load(table.read_text(encoding="utf-8"))
        for row in spec["rows"]:
            if row.get("paper"):
                numbers = " ".join("-" if number is None else str(number) for number in row["paper"])
                found.setdefault(row["experiment"], (spec["title"].partition(":")[0], numbers))
    return found


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_header_cites_the_table_that_has_its_row(experiment: str):
    data, _, row = experiment.partition("_")
    text, known = (CONF / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"), paper_numbers()
    on_voc = known.get(f"voc_{row}")
    cited = re.findall(r"Table \d", text)
    if data != "shapes" and experiment not in known:
        assert f"Not in the paper's {'Table 2' if data == 'coco' else 'Table 1'}" in text
        assert len(cited) == 1
        assert on_voc is None or f"its VOC numbers: {on_voc[1]}" in text
    elif data == "shapes" and on_voc is None:
        assert not re.search(r"\d\d\.\d ", text)
    else:
        table, numbers = known[experiment] if data != "shapes" else on_voc
        assert cited == [table]
        assert numbers in text


GROUP_MEMBERS = [
    (group.name, file.stem)
    for group in sorted(CONF.iterdir())
    if group.is_dir()
    and group.name not in {"experiment", "table", "hydra", "augmentation", "launcher", "hparams_search"}
    for file in sorted(group.glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "member"), GROUP_MEMBERS)
def test_every_member_of_a_group_composes(group: str, member: str):
    root = {"suite": "evaluate", "analysis": "analyze"}.get(group, "train")
    prefix = "+" if group == "debug" else ""
    overrides = [f"{prefix}{group}={member}", "paths.run=run"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(root, overrides, return_hydra_config=True)
    assert cfg.hydra.runtime.choices[group] == member
    with open_dict(cfg):
        del cfg["hydra"]
    check(cfg, root)  # raises for a key that nothing reads


@pytest.mark.parametrize(
    ("path", "key", "message"),
    [
        ("loss", "gama", r"unknown key 'loss\.gama' of robustdet\.defences\.robustdet\.LossWeights .*'gamma'"),
        ("attack.threat", "epsilonn", r"unknown key 'attack\.threat\.epsilonn' .*did you mean 'epsilon'"),
        ("warm_start", "ckptpath", r"unknown key 'warm_start\.ckptpath' .*did you mean 'ckpt_path'"),
        ("trainer", "max_step", r"unknown key 'trainer\.max_step' .*did you mean 'max_steps'"),
        ("protocol", "channel_mean", r"unknown key 'protocol\.channel_mean' .*did you mean 'channel_means'"),
        ("", "trainr", r"unknown key 'trainr' .*did you mean 'trainer'"),
    ],
)
def test_a_misspelt_key_in_a_yaml_names_the_right_one(path: str, key: str, message: str):
    cfg = compose("train", "experiment=shapes_cfr")
    node = OmegaConf.select(cfg, path) if path else cfg
    with open_dict(node):
        node[key] = 1
    with pytest.raises(UnknownKeyError, match=message):
        check(cfg, "train")


def test_a_target_that_does_not_exist_is_named():
    cfg = compose("train")
    cfg.method._target_ = "robustdet.defences.standard.Standart"
    with pytest.raises(UnknownKeyError, match=r"method\._target_: 'robustdet\.defences\.standard\.Standart'"):
        check(cfg, "train")


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("loss.gama=0.3", "'loss.gama' is no key of this config (did you mean 'loss.gamma'?)"),
        ("experiment=voc_crf", "no experiment is called 'voc_crf' (did you mean 'voc_cfr'?)"),
        ("trainer.max_stepz=3", "'trainer.max_stepz' is no key of this config (did you mean 'trainer.max_steps'?)"),
    ],
)
def test_a_misspelt_override_gets_a_hint(argument: str, hint: str):
    assert hint_for_overrides([argument], "train") == hint


def test_a_hint_knows_the_groups_that_were_chosen_and_what_was_added():
    right = ["suite=demo", "suite.attacks.cwa.steps=3", "+attack@suite.attacks.fine=pgd_total", "~suite.attacks.dag"]
    right += ["suite.attacks.fine.steps=50", "+suite.attacks.none=null"]
    assert hint_for_overrides(right, "evaluate") == ""
    wrong = [*right, "+attack@suite.attacks.more=pgd_totl", "suite.attacks.cwa.stepz=3"]
    assert hint_for_overrides(wrong, "evaluate").splitlines() == [
        "no attack is called 'pgd_totl' (did you mean 'pgd_total'?)",
        "'suite.attacks.cwa.stepz' is no key of this config (did you mean 'suite.attacks.cwa.steps'?)",
    ]


def test_an_attack_given_as_a_word_is_answered_with_what_adds_it():
    hint = hint_for_overrides(["suite.attacks.mine=pgd_cls"], "evaluate").splitlines()
    assert hint[-1] == "to add an attack to the suite: +attack@suite.attacks.mine=pgd_cls"
    assert "to add" not in hint_for_overrides(["suite.attacks.pgd_cls.steps=3"], "evaluate")


def test_the_command_line_prints_the_hint():
    command = [sys.executable, "-m", "src.train", "loss.gama=0.3"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=CONF.parent, check=False)
    assert done.returncode != 0
    assert "did you mean 'loss.gamma'?" in done.stderr
