"""Every group composes; a misspelt key, on the command line or in a yaml, names the nearest right one."""

import re
from pathlib import Path

import hydra
import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from robustdet.cli.composition import CONF, UnknownKeyError, check, composed, expand_homes, quoted
from robustdet.cli.hints import as_text, braces_expanded, hint_for_overrides
from tests.contracts.named_attacks import COMPOSED
from tests.forks import COMMANDS
from tests.launchers.commands import ended

EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
TABLES = sorted((CONF / "table").glob("*.yaml"))
ROWS = ["std", "at_cls", "at_loc", "mtd", "mtd_warm", "cwat", "robustdet", "cfr", "robustdet_no_aid", "cfr_no_re"]


def compose(root: str, *overrides: str):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(root, [*overrides, "paths.run=run"])


@pytest.mark.parametrize("data", ["voc", "coco", "shapes", "voc_mobile"])
def test_every_row_has_its_experiment(data: str):
    assert {f"{data}_{row}" for row in ROWS} <= set(EXPERIMENTS)


@pytest.mark.parametrize("table", TABLES, ids=lambda file: file.stem)
def test_every_row_of_a_table_has_its_experiment_or_is_of_a_study(table: Path):
    named = re.compile(r"\bname=(\w+)")
    of_studies = {name for file in (CONF / "study").glob("*.yaml") for name in named.findall(file.read_text("utf-8"))}
    rows = {row["experiment"] for row in yaml.safe_load(table.read_text(encoding="utf-8"))["rows"]}
    assert rows <= {*EXPERIMENTS, *of_studies}


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
    data, row = re.fullmatch(r"(voc_mobile|[a-z]+)_(.*)", experiment).groups()
    drawn_or_small = data in ("shapes", "voc_mobile")
    text, known = (CONF / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"), paper_numbers()
    on_voc = known.get(f"voc_{row}")
    cited = re.findall(r"Table \d", text)
    if not drawn_or_small and experiment not in known:
        assert f"Not in the paper's {'Table 2' if data == 'coco' else 'Table 1'}" in text
        assert len(cited) == 1
        assert on_voc is None or f"its VOC numbers: {on_voc[1]}" in text
    elif drawn_or_small and on_voc is None:
        assert not re.search(r"\d\d\.\d ", text)
    else:
        table, numbers = on_voc if drawn_or_small else known[experiment]
        assert cited == [table]
        assert numbers in text


CHOICE_OF_A_SCHEDULE = re.compile(r"^(schedule:|  - override /schedule:)", re.MULTILINE)
GROUP_MEMBERS = [
    (group.name, file.stem)
    for group in sorted(CONF.iterdir())
    if group.is_dir()
    and group.name not in {"experiment", "attack", "table", "hydra", "augmentation", "launcher", "hparams_search"}
    for file in sorted(group.glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "member"), GROUP_MEMBERS)
def test_every_member_of_a_group_composes(group: str, member: str):
    root = {"suite": "evaluate", "metric": "evaluate", "analysis": "analyze", "study": "study"}.get(group, "train")
    overrides = [f"{group}={member}", *(["paths.run=run"] if root != "study" else [])]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(root, overrides, return_hydra_config=True)
    assert cfg.hydra.runtime.choices[group] == member
    with open_dict(cfg):
        del cfg["hydra"]
    check(cfg, root)  # raises for a key that nothing reads


@pytest.fixture(scope="module")
def run_config():
    return compose("train")


@pytest.mark.parametrize("name", COMPOSED)
def test_every_attack_has_its_place_in_a_run(name: str, run_config):
    run_config.attack = COMPOSED[name].copy()
    check(run_config, "train")
    with open_dict(run_config):
        run_config.attack.unheard_of = 1
    with pytest.raises(UnknownKeyError, match=r"unknown key 'attack\.unheard_of'"):
        check(run_config, "train")


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


def test_a_value_that_leads_back_to_itself_is_named():
    cfg = compose("evaluate")
    cfg.suite.attacks = {"pgd_cls": "${suite.attacks.pgd_cls}"}
    with pytest.raises(UnknownKeyError, match=r"suite\.attacks\.pgd_cls: Recursive interpolation"):
        check(cfg, "evaluate")


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


@pytest.mark.parametrize(
    ("root", "argument", "there"),
    [
        ("evaluate", "suite.attacks.cwa.steps=50", "protocol.cwa.steps=50"),
        ("evaluate", "+suite.attacks.cwa.steps=50", "protocol.cwa.steps=50"),
        ("evaluate", "suite.attacks.dag.steps=9", "protocol.dag.steps=9"),
        ("train", "method.schedule.attack.threat.epsilon=4/255", "attack.threat.epsilon=4/255"),
        ("train", "experiment=shapes_robustdet method.weights.gamma=0.3", "loss.gamma=0.3"),
    ],
)
def test_a_key_of_a_borrowed_node_is_answered_with_where_it_stands(root: str, argument: str, there: str):
    *before, last = argument.split()
    before += ["method=adversarial"] if root == "train" and not before else []
    key, found = last.lstrip("+").partition("=")[0], there.partition("=")[0]
    with pytest.raises(HydraException, match=f"Could not (override|append to config).*'?{key}"):
        compose(root, *before, last)
    assert hint_for_overrides([*before, last], root) == f"'{key}' is taken from '{found}': {there} sets both"
    assert str(OmegaConf.select(compose(root, *before, there), key)) == there.partition("=")[2]


def test_the_command_line_prints_the_hint():
    done = ended("train", "loss.gama=0.3")
    assert done.code != 0
    assert "did you mean 'loss.gamma'?" in done.warned


def wrong(root: str, *overrides: str) -> list[str]:
    with pytest.raises(UnknownKeyError) as found:
        check(compose(root, *overrides), root)
    return str(found.value).splitlines()


def test_every_wrong_value_is_told_in_one_screen_where_it_stands():
    given = {
        "loss.gamma=abc": "loss.gamma='abc': expected a number, 0 or more",
        "loss.beta=true": "loss.beta=True: expected a number, 0 or more",
        "loss.a=-1": "loss.a=-1: expected a number, 0 or more",
        "trainer.max_steps=-3": "trainer.max_steps=-3: expected a whole number, -1 or more",
        "data.batch_size=0": "data.batch_size=0: expected a whole number, 1 or more",
        "attack.threat.epsilon=300": "attack.threat.epsilon=300: expected a fraction of the pixel range from 0 to 1, "
        "such as 8/255",
        "attack.steps=2.0": "attack.steps=2.0: expected a whole number, 1 or more",
        "attack.random_start=1": "attack.random_start=1: expected true or false",
        "seed=1.5": "seed=1.5: expected a whole number from 0 to 4294967295",
        "validation.max_images=x": "validation.max_images='x': expected a whole number or null, 1 or more",
        "validation.attack.step_size='8'": "validation.attack.step_size='8': expected a fraction of the pixel range "
        "from 0 to 1, such as 8/255",
        "model.weights=3": "model.weights=3: expected a text or a path or null",
        "model.post_processing.nms_threshold=2": "model.post_processing.nms_threshold=2: expected a number from 0 to 1",
        "callbacks.routing.step_sizes=[1/255,9]": "callbacks.routing.step_sizes=['1/255', 9]: expected a list of "
        "a fraction of the pixel range from 0 to 1, such as 8/255",
        "objectives=[1]": "objectives=[1]: expected a list of a text",
        "tags=a": "tags='a': expected a list of a text or null",
    }
    assert sorted(wrong("train", "method=robustdet", *given)) == sorted(given.values())
    assert sorted(wrong("evaluate", "suite.max_images=0", "pictures=-1", "suite.attacks.pgd_cls.steps=0")) == [
        "pictures=-1: expected a whole number, 0 or more",
        "suite.attacks.pgd_cls.steps=0: expected a whole number, 1 or more",
        "suite.max_images=0: expected a whole number or null, 1 or more",
    ]


def test_a_wrong_value_that_others_take_from_elsewhere_is_told_where_it_has_a_kind():
    assert wrong("train", "trainer.max_steps=abc", "protocol.candidates_per_class=abc") == [
        "model.post_processing.candidates_per_class='abc': expected a whole number, 1 or more",
        "trainer.max_steps='abc': expected a whole number, -1 or more",
    ]


def test_numbers_and_texts_that_are_right_are_let_through():
    right = ["trainer.max_steps=-1", "attack.threat.epsilon=0.03", "optimizer.lr=1e-3", "loss.gamma=1", "tags=[a,b]"]
    right += ["trainer.devices=[0,1]", "trainer.precision=bf16-mixed", "trainer.limit_val_batches=0.5", "task_name=x"]
    cfg = compose("train", "method=robustdet", *right)
    check(cfg, "train")
    assert (cfg.task_name, list(cfg.tags)) == ("x", ["a", "b"])
    assert compose("evaluate").task_name == "evaluate"
    assert compose("train", "logger=wandb", "tags=[a,b]").logger.wandb.tags == ["a", "b"]


@pytest.mark.parametrize(
    "path",
    ["~/runs", "a b/c.ckpt", "epoch=3-step=5.ckpt", "a [1].ckpt", "[x].ckpt", "größe (2).ckpt", "it's.ckpt", "a\\'b\\"],
)
def test_a_path_that_hydra_cannot_read_is_taken_as_it_stands(path: str):
    assert compose("train", as_text(f"ckpt_path={path}")).ckpt_path == path
    assert compose("train", f"ckpt_path={quoted(path)}").ckpt_path == path


@pytest.mark.parametrize("argument", ["--cfg", "-m", "a=1,2", "a=[1,2]", "a={b:c}", "experiment=glob(voc_*)", "a=b c"])
def test_what_hydra_can_read_stays_as_it_is(argument: str):
    assert as_text(argument) == argument


def test_a_list_that_cannot_be_read_is_answered_with_how_to_write_it():
    assert hint_for_overrides(["ckpt_path=[a=1.ckpt,b c.ckpt]"], "analyze") == (
        'cannot read ckpt_path=[a=1.ckpt,b c.ckpt]: write \'ckpt_path=["a=1.ckpt","b c.ckpt"]\''
    )
    assert hint_for_overrides(["warm_start.overrides=[trainer.max_steps=9]"], "train").endswith(
        "write 'warm_start.overrides=[\"trainer.max_steps=9\"]'"
    )
    assert braces_expanded(["ckpt_path=SSD:A.ckpt", "ckpt_path=RobustDet:b/B.ckpt", "analysis=summary"]) == (
        "ckpt_path is given 2 times: the shell takes braces apart. "
        "Quote it: 'ckpt_path={SSD:A.ckpt,RobustDet:b/B.ckpt}'"
    )
    assert braces_expanded(["ckpt_path=a.ckpt", "ckpt_path=b.ckpt"]) == ""


def test_home_is_found_wherever_a_path_stands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ada")
    cfg = compose("predict", "image=['~/a.jpg','b~.jpg']", "paths.outputs='~/runs'", "model.weights='~/vgg.pth'")
    expand_homes(cfg)
    assert list(cfg.image) == ["/home/ada/a.jpg", "b~.jpg"]
    assert cfg.paths.outputs == "/home/ada/runs"
    assert cfg.model.weights == "/home/ada/vgg.pth"
    assert OmegaConf.is_interpolation(cfg.data, "root")


def test_an_override_that_takes_a_key_out_is_no_home():
    cfg = composed("study", ["trainings=['~model.weights']", "study.trainings.std.overrides=['~model.weights']"])
    expand_homes(cfg)
    assert [*cfg.trainings, *cfg.study.trainings.std.overrides] == 2 * ["~model.weights"]


@pytest.mark.parametrize(
    "right",
    [
        ["-m", "experiment=voc_std,voc_cfr"],
        ["-m", "experiment=glob(voc_*)"],
        ["-m", "experiment=glob(*,exclude=voc_*)"],
        ["debug=fdr"],
        ["experiment=null"],
        ["~logger"],
        ["-m", "loss.gamma=0.3,0.6", "optimizer.lr=interval(0.1,1)"],
    ],
)
def test_what_is_right_gets_no_hint(right: list[str]):
    assert hint_for_overrides(right, "train") == ""


def test_a_hint_for_one_of_several_choices_and_for_an_argument_that_is_not_set():
    assert hint_for_overrides(["-m", "experiment=voc_std,voc_crf"], "train") == (
        "no experiment is called 'voc_crf' (did you mean 'voc_cfr'?)"
    )
    assert hint_for_overrides(["-m", "experiment=glob(vox_*)"], "train").startswith("no experiment is called 'glob(vox")
    assert hint_for_overrides(["trainer.enable_checkpointing=false"], "train") == (
        "'trainer.enable_checkpointing' is an argument of pytorch_lightning.Trainer that is not set here: "
        "add it with +trainer.enable_checkpointing=…"
    )


@pytest.fixture
def own_configs(tmp_path: Path) -> Path:
    (tmp_path / "experiment").mkdir()
    for name in ("mine_std", "mine_mtd"):
        text = f"# @package _global_\ndefaults: [shapes_std]\nname: {name}\n"
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_experiments_of_a_folder_of_ones_own(own_configs: Path):
    given = ["--config-dir", str(own_configs)]
    assert hint_for_overrides([*given, "experiment=mine_std"], "train") == ""
    assert hint_for_overrides([*given, "experiment=mine_mdt"], "train") == (
        "no experiment is called 'mine_mdt' (did you mean 'mine_mtd'?)"
    )
    assert composed("train", ["experiment=mine_mtd"], [str(own_configs)]).name == "mine_mtd"


def test_a_command_finds_its_clean_stage_in_a_folder_of_ones_own(own_configs: Path):
    stage = ",".join(f'"{override}"' for override in ["debug=fdr", *SMALL])
    command = ["-m", "--config-dir", str(own_configs), "experiment=mine_mtd"]
    command += ["debug=fdr", f"paths.outputs={own_configs}/a b (2)", "warm_start.experiment=mine_std", *SMALL]
    command += [f"warm_start.overrides=[{stage}]", f"paths.data={own_configs}"]
    done = ended("train", *command)
    assert done.code == 0, done.warned
    assert "No finished clean stage mine_std" in done.said
    assert list((own_configs / "a b (2)" / "sweeps" / "mine_mtd").glob("*/0/run.json"))


SMALL = [f"data.source.{split}=8" for split in ("train", "val", "test")] + [
    "data.batch_size=4",
    "data.eval_batch_size=4",
]


def test_the_command_line_tells_all_wrong_values_and_nothing_else():
    command = ["trainer.max_steps=-3", "seed=x", "paths.outputs=~/nowhere"]
    folder = CONF.parent / "outputs"
    done = ended("train", *command, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout")
    assert done.code == 1
    assert sorted(done.warned.splitlines()) == [
        "seed='x': expected a whole number from 0 to 4294967295",
        "trainer.max_steps=-3: expected a whole number, -1 or more",
    ]
    assert not (folder / "~").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_one_screen_for_every_command(command: str):
    done = ended(command, "--help")
    assert (done.code, done.warned) == (0, "")
    lines = done.said.splitlines()
    assert sum(1 + len(line) // 120 for line in lines) <= 50
    for name in COMMANDS:
        (line,) = [line for line in lines if f"python -m src.{name}" in line]
        assert line.startswith(name)
    for group in ("data", "experiment", "attack", "suite", "debug"):
        members = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        assert f"{group}: {', '.join(members)}" in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [
        file.stem
        for file in sorted((CONF / "experiment").glob("*.yaml"))
        if CHOICE_OF_A_SCHEDULE.search(file.read_text(encoding="utf-8"))
    ],
)
def test_every_experiment_takes_another_schedule(experiment: str, compose):
    """As README says it; an experiment's own fields of a schedule would be unknown to another."""
    cfg = compose("train", f"experiment={experiment}", "schedule=full")
    check(cfg, "train")  # raises for a field that the schedule has not
    assert cfg.schedule._target_.endswith(".Full")
    assert set(cfg.schedule) <= {"_target_", "_convert_", "attack", "epsilon_warmup"}
