"""What runs and evaluations leave, read back: checkpoints, records, marks and configs of runs, stored outcomes."""

from __future__ import annotations

import json
import random
import warnings
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from robustdet.analysis.report.findings import read_run
from robustdet.analysis.table import summary
from robustdet.cli.composition import composed
from robustdet.cli.subjects import as_trained, trained, without_data
from robustdet.detection.weights import require_fit
from robustdet.evaluation.record import read_record, write_record
from robustdet.evaluation.store import Outcome, OutcomeStore
from robustdet.interop.checkpoints import load_checkpoint
from robustdet.runs.run import BEGUN, CONFIG, ENDED, Run
from robustdet.types import Detections
from tests.evaluation.records import RECORD
from tests.fuzz.kinds import OneFile
from tests.fuzz.mutations import mutated_bytes, mutated_text, mutated_value

CLASSES = ["circle", "square"]


@cache
def described() -> DictConfig:
    return composed("train", ["experiment=shapes_std", "trainer=cpu", "paths.run=run"])


@cache
def network() -> torch.nn.Module:
    from robustdet.cli.instantiating import instantiate

    return instantiate(described().model, num_classes=len(CLASSES)).eval()


def saved(content: Any) -> bytes:
    file = BytesIO()
    torch.save(content, file)
    return file.getvalue()


def text_or_data(content: bytes, chance: random.Random) -> bytes:
    """Of a JSON file: its text is damaged, or what it says."""
    if chance.random() < 0.5:
        return mutated_text(content.decode(), chance)
    return json.dumps(mutated_value(json.loads(content), chance)).encode()


# Checkpoints


def state() -> dict[str, Any]:
    weights = {f"model.{name}": tensor for name, tensor in network().state_dict().items()}
    return {"state_dict": weights, "global_step": 7, "classes": CLASSES, "epoch": 0}


def checkpoint(folder: Path) -> Path:
    file = folder / "some.ckpt"
    file.write_bytes(saved(state()))
    return file


def damaged_checkpoint(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.6:
        return mutated_bytes(content, chance)
    whole = state()
    names = list(whole["state_dict"])
    match chance.randrange(6):
        case 0:
            whole = mutated_value(whole, chance)
        case 1:
            whole["state_dict"] = chance.choice([None, [], {}, 3, "weights", torch.zeros(3)])
        case 2:
            whole["state_dict"][chance.choice(names)] = chance.choice([None, torch.zeros(()), torch.zeros(3, 3), "x"])
        case 3:
            name = chance.choice(names)
            whole["state_dict"][name] = whole["state_dict"][name].to(chance.choice([torch.float16, torch.complex64]))
        case 4:
            prefix = chance.choice(["module.", "_orig_mod.", "module._orig_mod.", "net."])
            whole = {chance.choice(["model", "state_dict", "weights"]): {
                prefix + name.removeprefix("model."): tensor for name, tensor in whole["state_dict"].items()
            }}  # fmt: skip
        case _:
            whole["state_dict"][chance.choice(names)].flatten()[0] = float("nan")
            network.cache_clear()
    return saved(whole)


def read_checkpoint(file: Path) -> None:
    read = load_checkpoint(file)
    require_fit(read.state_dict, network().state_dict(), file)
    network().load_state_dict(read.state_dict)
    assert all(bool(tensor.isfinite().all()) for tensor in network().state_dict().values())


# Runs


def run_folder(folder: Path, config: str) -> Path:
    """A run of which ``config`` can be damaged: its checkpoint, and the marks of an end and of a beginning."""
    run = Run(folder / "run")
    run.begin({"experiment": "shapes_std", "identity": "x"}, OmegaConf.to_yaml(described(), resolve=True))
    run.checkpoints.mkdir(exist_ok=True)
    run.final.write_bytes(saved(state()))
    mark = {"experiment": "shapes_std", "checkpoint": "checkpoints/final.ckpt", "identity": "x", "updates": 7}
    begun = (run.folder / BEGUN).read_text(encoding="utf-8")
    run.end({**mark, "metrics": {"val/AP50_clean": 0.5}, "recipe": "r", "incomplete": None})
    (run.folder / BEGUN).write_text(begun, encoding="utf-8")
    return run.folder / config


def read_config(file: Path) -> None:
    """The detector that the run's config describes, as a prediction builds it."""
    command = composed("predict", ["trainer=cpu", "paths.run=run", f"ckpt_path='{Run(file.parent).final}'", "image=x"])
    one = trained(Run(file.parent).final, command)
    as_trained(command, one)
    detector, classes = without_data(one, command)
    assert classes == CLASSES
    assert detector.num_classes == len(CLASSES)


def read_mark(file: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        run = Run(file.parent)
        list(Run.below(file.parent.parent))
        assert run.result is None or run.result.is_file()
        run.is_complete  # noqa: B018
        run.is_unfinished("x")
    if file.name == ENDED:
        read_run(file)


# Records


def record(folder: Path) -> Path:
    return write_record(RECORD, folder)


def read_a_record(file: Path) -> None:
    read = read_record(file)
    again = read_record(write_record(replace(read, attack="again"), file.parent))
    assert replace(again, attack=read.attack) == read
    summary([read])


# Outcomes


def outcomes(folder: Path) -> Path:
    store = OutcomeStore(folder, "pgd", {"seed": 0})
    found = [Detections(torch.rand(n, 4), torch.rand(n), torch.ones(n, dtype=torch.int64)) for n in (0, 3, 2)]
    store.append(["a", "b", "c"], [Outcome(one, {"loss": 1.0}, one) for one in found])
    return next(folder.rglob("*.npz"))


def damaged_outcomes(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.7:
        return mutated_bytes(content, chance)
    arrays = dict(np.load(BytesIO(content)))
    name = chance.choice(list(arrays))
    match chance.randrange(4):
        case 0:
            del arrays[name]
        case 1:
            arrays[name] = arrays[name][:-1]
        case 2:
            arrays[name] = np.array(["text", None], dtype=object)
        case _:
            arrays[name] = arrays[name].reshape(1, *arrays[name].shape)
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=True, **arrays)
    return file.getvalue()


def read_outcomes(file: Path) -> None:
    """What is not read must be made again: it is not among those that are done."""
    store = OutcomeStore(file.parents[2], "pgd", {"seed": 0})
    read = store.read()
    assert read.keys() == store.done
    for outcome in store.recall(sorted(store.done)):
        assert outcome.detections.boxes.shape == (len(outcome.detections.scores), 4)


KINDS = [
    OneFile("checkpoint", checkpoint, damaged_checkpoint, read_checkpoint),
    OneFile("run: config.yaml", lambda folder: run_folder(folder, CONFIG), lambda c, r: mutated_text(c.decode(), r),
            read_config),
    OneFile("run: run.json", lambda folder: run_folder(folder, ENDED), text_or_data, read_mark),
    OneFile("run: unfinished.json", lambda folder: run_folder(folder, BEGUN), text_or_data, read_mark),
    OneFile("record", record, text_or_data, read_a_record),
    OneFile("stored outcomes", outcomes, damaged_outcomes, read_outcomes),
]  # fmt: skip
