"""Numbers of the authors' code, and our networks under ``protocol=authors`` on the weights and images they belong to.

README.md beside this file tells the rule of weights and images, and what the numbers are. The repository has an excerpt
of a few hundred of each; where ROBUSTDET_GOLDEN names a folder with all of them, these are used instead.
"""

from __future__ import annotations

import ast
import math
import os
import zlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from robustdet.cli.building import without_start
from robustdet.interop.checkpoints import to_authors
from tests.launchers.test_composition import compose

FULL = Path(os.environ["ROBUSTDET_GOLDEN"]) if "ROBUSTDET_GOLDEN" in os.environ else None
EXCERPT = Path(__file__).parent / "authors.npz"
EXPERIMENTS = {"ssd": "voc_std", "robust": "voc_robustdet", "cfr": "voc_cfr"}
ATTACKS = ("cls", "loc", "mtd")
SIZE = 300

# Of the default boxes of each feature map, eight evenly spaced ones
MAPS = np.cumsum([0, 5776, 2166, 600, 150, 36, 4])
BOXES = np.unique(np.concatenate([np.linspace(a, b - 1, 8).astype(int) for a, b in pairwise(MAPS)]))

Numbers = Mapping[str, np.ndarray]


def networks() -> dict[str, nn.Module]:
    """SSD300, RobustDet and RobustDet*, as ``protocol=authors`` has them, with weights by the rule."""
    models = {
        name: instantiate(without_start(_config(experiment).model), num_classes=20)
        for name, experiment in EXPERIMENTS.items()
    }
    fill(models.values())
    return {name: model.eval() for name, model in models.items()}


def _config(experiment: str) -> DictConfig:
    # grouped: as the authors run their convolutions, the same in result and in rounding
    execution = [] if experiment == "voc_std" else ["model.execution=grouped"]
    return compose("train", f"experiment={experiment}", "protocol=authors", *execution)


def fill(models: Iterable[nn.Module]) -> None:
    """Every tensor by the rule, drawn once for all models that have it."""
    states = [to_authors(model.state_dict()) for model in models]
    places: dict[tuple[str, tuple[int, ...]], list[tuple[Tensor, Mapping[str, Tensor]]]] = {}
    for state in states:
        for name, tensor in state.items():
            places.setdefault((name, tuple(tensor.shape)), []).append((tensor, state))
    for (name, shape), found in places.items():
        value = torch.from_numpy(np.asarray(_tensor(name, shape, found[0][1])))
        for tensor, _ in found:
            tensor.copy_(value)


def _tensor(name: str, shape: tuple[int, ...], names: Mapping[str, object]) -> np.ndarray:
    layer, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if kind == "running_mean" or (kind == "bias" and f"{layer}.running_mean" in names):
        return np.zeros(shape, dtype=np.float32)
    if name == "L2Norm.weight":
        return np.full(shape, 20, dtype=np.float32)
    if kind == "running_var" or (kind == "weight" and len(shape) < 2):
        return np.ones(shape, dtype=np.float32)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    return noise * np.float32(0.01 if kind == "bias" else _scale(name, shape))


def _scale(name: str, shape: tuple[int, ...]) -> float:
    fan = math.prod(shape[-3:]) if len(shape) >= 4 else shape[-1]
    factors = (
        (0.6, name.startswith(("loc.", "conf."))),
        (0.5, name.startswith("disc.")),
        (20, name == "disc.base_net.fc.weight"),
        (0.02, name in ("vgg.0.weight", "disc.base_net.conv1.weight")),
        (0.1, "conv_std" in name),
    )
    return math.sqrt(2 / fan) * math.prod(factor for factor, applies in factors if applies)


def images() -> np.ndarray:
    """The two images, bytes [2, 3, 300, 300]: a grid of 12 x 12 colours each, enlarged bilinearly and rounded."""
    grid = shipped()["grid"].astype(np.float64)
    cells = grid.shape[-1]
    at = (np.arange(SIZE) + 0.5) * cells / SIZE - 0.5  # pixel centres; beyond the outer cells' centres all is constant

    def enlarge(axis: int, values: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(cells), line), axis, values)

    return enlarge(2, enlarge(3, grid)).round().astype(np.uint8)


def numbers(name: str) -> Numbers:
    """What the authors' code gives for a network: all of it if we have it, else the excerpt."""
    if FULL is not None:
        return full(name)
    return {key.removeprefix(f"{name}."): value for key, value in shipped().items() if key.startswith(f"{name}.")}


def shipped() -> Numbers:
    with np.load(EXCERPT) as file:
        return dict(file)


def full(name: str) -> Numbers:
    assert FULL is not None
    with np.load(FULL / f"authors_{name}.npz") as file:
        found = dict(file)
    statistics = {f"{part}_statistics": over_boxes(found[part]) for part in ("conf", "loc")}
    return {**found, **statistics, "boxes": np.arange(len(found["priors"]))}


def listed(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a checkpoint of the authors."""
    assert FULL is not None
    lines = (FULL / f"state_dict_{name}.txt").read_text(encoding="utf-8").splitlines()
    return {key: ast.literal_eval(shape) for key, _, shape in (line.partition(" ") for line in lines if line)}


def over_boxes(predictions: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over all default boxes, [2, B, outputs]."""
    return np.stack([predictions.mean(axis=1, dtype=np.float64), predictions.std(axis=1, dtype=np.float64)])


def excerpt() -> dict[str, np.ndarray]:
    """What the repository keeps of the full numbers."""
    kept = {"grid": shipped()["grid"]}
    for name in EXPERIMENTS:
        theirs = dict(full(name))
        del theirs["images"]
        theirs |= {part: theirs[part][:, BOXES] for part in ("conf", "loc")}
        theirs |= {"priors": theirs["priors"][BOXES], "boxes": BOXES}
        theirs |= {f"adv3_{attack}": theirs[f"adv3_{attack}"][:, :, ::15, ::15] for attack in ATTACKS}
        if "recon_of_mu" in theirs:
            theirs["recon_of_mu"] = theirs["recon_of_mu"][:, :, ::3, ::3]
        kept |= {f"{name}.{key}": value for key, value in theirs.items()}
    return kept
