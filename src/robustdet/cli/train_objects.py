"""A training of objects, a detector and data that somebody has made, by the methods that `src.train` knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from robustdet.attacks.threat import ratio
from robustdet.cli.building import build_trainer, logging_of, prepare
from robustdet.cli.composition import check, composed, run_folder
from robustdet.cli.instantiating import instantiate
from robustdet.cli.objects import GIVEN, require_of_others
from robustdet.cli.rescaling import balls, in_255ths, in_ball
from robustdet.cli.start import require_attackable
from robustdet.cli.subjects import keys_of
from robustdet.cli.unread import PARTS, SIZES, passed_over, require_read, unscaled
from robustdet.errors import InputError
from robustdet.runs.first_process import say
from robustdet.training.module import DetectionModule
from robustdet.training.validation import Validation
from robustdet.types import TrainingMethod, offers

STANDARD = "standard"
OF_METHOD = dict.fromkeys(("method", *PARTS), "nothing reads this, for the method is given as an object")
STAND_FOR = GIVEN | {
    "warm_start": "nothing reads this, for training starts from the detector as it is",
    **dict.fromkeys(("callbacks", "larger_batch"), "only the command src.train reads this"),
    "speed": "a profile is of the command src.train; trainer.precision= and optimizer.fused= can be set here",
}


def train_objects(
    name: str,
    model: nn.Module,
    data: Any,
    method: str | TrainingMethod,
    epsilon: float | int | str | None,
    overrides: Sequence[str],
) -> Path:
    """Trains ``model`` where it is, on ``data``, a data module; returns its last state, `checkpoints/final.ckpt`.

    ``overrides`` are those of `src.train`; files go to `<outputs>/<name>/<time>` unless they have `paths.run`.
    """
    chosen = [f"method={method}" if method == STANDARD else "method=adversarial"] if isinstance(method, str) else []
    if chosen and method != STANDARD:
        chosen.append(f"attack={method}")
    require_of_others(overrides, STAND_FOR | ({} if isinstance(method, str) else OF_METHOD))
    if epsilon is not None and (said := sorted(SIZES & keys_of(overrides))):
        raise InputError(
            f"epsilon={epsilon} is the size of the ball, steps in proportion, and {', '.join(said)} says a size too: "
            "give one of them"
        )
    cfg = composed("train", [*chosen, *overrides])
    if OmegaConf.is_interpolation(cfg.paths, "run"):  # Hydra's, of a command's own folder
        cfg.paths.run = run_folder(str(Path(cfg.paths.outputs) / name))
    check(cfg, "train")
    require_read(cfg, overrides)
    for text in filter(None, (passed_over(cfg, overrides), unscaled(cfg, overrides))):
        say(text)
    if epsilon is not None:
        _resize(cfg, epsilon, str(method))
    with open_dict(cfg):
        cfg.name, cfg.data = name, {"name": data.name, "eval_batch_size": data.eval_batch_size}
        cfg.model = {"_target_": f"{type(model).__module__}.{type(model).__qualname__}", "input_size": data.image_size}
    prepare(cfg)
    how = instantiate(cfg.method) if isinstance(method, str) else method
    require_attackable(name, offers(model), how)  # type: ignore[arg-type]
    watched = Validation(
        instantiate(cfg.validation.attack), cfg.validation.max_images, len(data.classes), cfg.seed,
        cfg.validation.clean_share,
    )  # fmt: skip
    module = DetectionModule(
        model.train(), how, instantiate(cfg.optimizer), instantiate(cfg.scheduler), cfg.seed, watched, data.classes
    )
    trainer = build_trainer(cfg, [])
    with logging_of(trainer, cfg):
        trainer.fit(module, data)
    final = Path(cfg.paths.run) / "checkpoints" / "final.ckpt"
    trainer.save_checkpoint(final)
    return final


def _resize(cfg: DictConfig, epsilon: float | int | str, method: str) -> None:
    """The attack's ball, and the lengths of all steps, its schedule's too, in proportion."""
    if cfg.method.get("schedule") is None:
        raise InputError(f"epsilon={epsilon}: method={method} attacks nothing")
    before = balls(OmegaConf.to_container(cfg.attack, resolve=True))
    cfg.attack = in_ball(cfg.attack, epsilon, method)
    if "step_sizes" in cfg.schedule:
        scale = ratio(epsilon) / before[0]
        cfg.schedule.step_sizes = [in_255ths(ratio(size) * scale) for size in cfg.schedule.step_sizes]
