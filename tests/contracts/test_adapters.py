"""What can be done with each kind of detector, found by doing it; docs/any_detector.md has what is found as a table."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from robustdet.analysis.figures.study import Study, Subject, require_detectors
from robustdet.analysis.prediction import predict
from robustdet.attacks import DetectorVictim, image_generators
from robustdet.attacks.base import require_attack
from robustdet.cli.composition import CONF, composed
from robustdet.cli.evaluate import unmet
from robustdet.cli.instantiating import instantiate
from robustdet.errors import InputError, RobustdetError
from robustdet.evaluation.measuring import measure
from robustdet.evaluation.metric import VocMetric
from robustdet.types import Batch, HasLosses
from tests.attacks.fakes import state
from tests.contracts.named_attacks import COMPOSED, NAMES
from tests.contracts.test_detectors import CLASSES, batch_for, built
from tests.interop.networks import FAST, ONE_STAGE
from tests.launchers.test_analyze import quick

PAGE = Path(__file__).parents[2] / "docs" / "any_detector.md"
TABLE = re.compile(
    r"(?<=<!-- found by tests/contracts/test_adapters\.py -->\n).*?(?=<!-- end of what was found -->)", re.S
)
ADAPTERS = {
    "torchvision (Faster R-CNN)": FAST,
    "torchvision (RetinaNet, FCOS, SSD)": ONE_STAGE[2],  # the others detect nothing before they have learnt
    "transformers": "detr",
    "a function, ONNX": "function",
    "trained here (SSD)": "tiny_ssd",
    "trained here (RobustDet)": "tiny_robust_ssd",
}
NEEDS_MORE = {  # an attack, a checkpoint, a picture, or the rounds before it
    *("transfer", "bfloat16", "own_predictions", "patch_universal"),
    *("among_others", "among_others_on", "among_others_adam"),
}
ATTACKS = [name for name in NAMES if name not in NEEDS_MORE]
TRIED = {"noise", "square_detections", "pgd_cls", "mtd", "cwa", "dag", "tog_vanishing"}
ANALYSES = sorted({file.stem for file in (CONF / "analysis").glob("*.yaml")} - {"universal_patch"})  # wants validation
METHODS = ("standard", "adversarial")
Do = Callable[[Any, Batch], Any]


def short(node: DictConfig) -> DictConfig:
    """An attack of one step."""
    for key, value in node.items():
        if isinstance(value, DictConfig):
            short(value)
        elif key in ("steps", "queries", "restarts", "iterations") and isinstance(value, int):
            node[key] = 1
    return node


def attacking(name: str) -> Do:
    """``TRIED`` are tried; of the others counts what they declare to need, which their own contract holds."""
    attack = require_attack(instantiate(short(COMPOSED[name].copy())))

    def do(model: Any, batch: Batch) -> None:
        generators = image_generators(0, [target.image_id for target in batch.targets])
        lacks = unmet(attack, model)
        if name not in TRIED and attack.knowledge != "discriminator":
            if lacks is not None:
                raise InputError(f"{name}: {lacks}")
            return
        attacked = attack(DetectorVictim(model), batch.images, batch.targets, generators)
        assert lacks is None, f"a suite leaves {name} out, which works"
        assert attacked.shape == batch.images.shape

    return do


def analysing(name: str) -> Do:
    cfg = composed("analyze", [f"analysis={name}"])
    quick(cfg)
    for key, value in {"threshold": 0.0, "epsilons": ["8/255"]}.items():
        if key in cfg.analysis:
            cfg.analysis[key] = value
    if "optimizer" in cfg.analysis:
        cfg.analysis.optimizer.lr = 1e-6  # a step of the usual length is too long for a random network
    analysis = instantiate(cfg.analysis)

    def do(model: Any, batch: Batch) -> None:
        subjects = [Subject(label, model) for label in (("it", "itself") if name == "differences" else ("it",))]
        study = Study(subjects, [batch], len(batch), "a test", ["a", "b", "c"], VocMetric(CLASSES))
        require_detectors(study)
        assert analysis(study).rows

    return do


def training(method: str) -> Do:
    def do(model: Any, batch: Batch) -> None:
        if not isinstance(model, HasLosses):
            raise InputError(f"{type(model).__name__} has no losses, which every training method asks for")
        made = instantiate(composed("train", [f"method={method}", "schedule=full", "attack.steps=1"]).method)
        learner = copy.deepcopy(model)
        made.step(learner.train(), batch, torch.Generator().manual_seed(0)).loss.backward()

    return do


def clean(model: Any, batch: Batch) -> None:
    assert len(measure(model, None, batch, batch.images)[0]) == len(batch)


def predicting(model: Any, batch: Batch) -> None:
    assert predict(model, batch.images[:1], (40, 60), None, "", 0.0, 0)


def rows() -> dict[str, dict[str, Do]]:
    """What is done, by what the page calls it: of several names each has to be tried."""
    return {
        "clean images": {"": clean},
        "predictions": {"": predicting},
        **{f"`attack={name}`": {name: attacking(name)} for name in ATTACKS},
        **{f"a step of `method={name}`": {name: training(name)} for name in METHODS},
        **{f"`analysis={name}`": {name: analysing(name)} for name in ANALYSES},
    }


def works(do: Do, model: Any) -> bool:
    """Whether it can be done; what cannot has to say so in words of ours."""
    batch = batch_for(model)
    try:
        do(model, Batch(batch.images[:2], batch.targets[:2]))
    except RobustdetError:
        return False
    return True


def as_table(found: Mapping[str, Mapping[str, bool]]) -> str:
    """Rows that are alike are one."""
    alike: dict[tuple[bool, ...], list[str]] = {}
    for row, cells in found.items():
        alike.setdefault(tuple(cells.values()), []).append(row)
    lines = [f"| | {' | '.join(ADAPTERS)} |", "|---|" + "---|" * len(ADAPTERS)]
    lines += [
        f"| {', '.join(names)} | {' | '.join('yes' if cell else '–' for cell in cells)} |"
        for cells, names in alike.items()
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_the_page_says_what_can_be_done(request: pytest.FixtureRequest):
    pytest.importorskip("transformers", reason="transformers is not installed, whose column the table has")
    models = {adapter: built(name).eval() for adapter, name in ADAPTERS.items()}
    before = {adapter: state(model) for adapter, model in models.items()}
    found = {
        row: {adapter: all(works(do, model) for do in each.values()) for adapter, model in models.items()}
        for row, each in rows().items()
    }
    assert {adapter: state(model) for adapter, model in models.items()} == before  # so that none speaks for the next
    text = PAGE.read_text(encoding="utf-8")
    if request.config.getoption("--rewrite-golden"):
        PAGE.write_text(TABLE.sub(lambda _: as_table(found), text), encoding="utf-8")
        return
    (table,) = TABLE.findall(text)
    assert table == as_table(found), "make golden writes it anew"
