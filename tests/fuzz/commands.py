"""Values on a command line: composed, checked and made objects of, as a training does before it begins."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robustdet.cli.building import bare_trainer, require_seed
from robustdet.cli.composition import check, composed, expand_homes
from robustdet.cli.hints import as_text, no_names
from robustdet.cli.instantiating import instantiate
from robustdet.errors import InputError
from robustdet.training.module import DetectionModule
from tests.fuzz.kinds import Kind
from tests.fuzz.mutations import NUMBERS, WORDS

WORDS_OF_YAML = [
    *NUMBERS,
    *(word for word in WORDS if "\0" not in word),  # which no system passes to a command
    "null",
    "[]",
    "{}",
    "[1,2]",
    "{a: 1}",
    "true",
    "8/255",
    "1/0",
    "256",
    "-8/255",
    "~",
    "~nobody/x",
]
KEYS = [
    "seed", "model.input_size", "trainer.max_steps", "trainer.val_check_interval", "trainer.precision",
    "trainer.devices", "trainer.gradient_clip_val", "trainer.accumulate_grad_batches", "trainer.limit_val_batches",
    "optimizer.lr", "optimizer.weight_decay", "validation.attack.steps", "validation.attack.step_size",
    "validation.attack.threat.epsilon", "validation.max_images", "method.attack.steps", "method.schedule",
    "loss.gamma", "data.batch_size", "data.val_share", "data.root", "paths.outputs", "scheduler.milestones",
    "warm_start.ckpt_path", "larger_batch", "model.widths", "protocol", "experiment", "name",
]  # fmt: skip


class Overrides:
    """Some keys get values that they should not have."""

    name = "command line"

    def prepare(self, folder: Path) -> None:
        self.fixed = ["trainer=cpu", f"paths.run='{folder / 'run'}'"]
        self.given: list[str] = ["experiment=shapes_mtd"]

    def damage(self, chance: random.Random) -> None:
        chosen = [f"{chance.choice(KEYS)}={chance.choice(WORDS_OF_YAML)}" for _ in range(chance.randint(1, 2))]
        self.given = [f"experiment=shapes_{chance.choice(['std', 'mtd', 'cfr', 'robustdet'])}", *chosen]

    def read(self) -> Any:
        try:
            arguments = [as_text(one) for one in [*self.given, *self.fixed]]
            if unnamed := no_names(arguments):
                raise InputError(unnamed)
            cfg = composed("train", arguments)
            expand_homes(cfg)
            check(cfg, "train")
            OmegaConf.resolve(cfg)
        except (HydraException, OmegaConfBaseException) as error:  # Hydra prints them without a traceback
            raise InputError(str(error) or type(error).__name__) from error
        require_seed(cfg.seed)
        bare_trainer(cfg)
        model = instantiate(cfg.model, num_classes=3)
        instantiate(cfg.validation.attack)
        parts = (instantiate(cfg[name]) for name in ("method", "optimizer", "scheduler"))
        DetectionModule(model, *parts, cfg.seed).configure_optimizers()


KINDS: list[Kind] = [Overrides()]
