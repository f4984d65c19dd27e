"""`larger_batch=k`: an experiment with k times its batch, for many GPUs, by a rule that is written down."""

from __future__ import annotations

import math

from omegaconf import DictConfig

from robustdet.runs.first_process import say

OF_SCHEDULERS = ("warmup_steps", "milestones", "step_size")  # what is counted in updates


def enlarge(cfg: DictConfig) -> None:
    """k times the images an update and k times the learning rate, a k-th of all that is counted in updates.

    The linear rule of Goyal et al. (2017, arXiv 1706.02677): as many images are seen, and k small steps in one
    direction become a large one. It is a rule of thumb: from some k on, fewer updates learn less.
    """
    k = cfg.larger_batch
    if k == 1:
        return
    before = cfg.data.batch_size, cfg.optimizer.lr, cfg.trainer.max_steps
    cfg.data.batch_size *= k
    cfg.optimizer.lr *= k
    if cfg.optimizer.get("backbone_lr") is not None:
        cfg.optimizer.backbone_lr *= k
    if cfg.trainer.max_steps > 0:
        cfg.trainer.max_steps = math.ceil(cfg.trainer.max_steps / k)
    if isinstance(cfg.trainer.val_check_interval, int):
        cfg.trainer.val_check_interval = math.ceil(cfg.trainer.val_check_interval / k)
    for key in OF_SCHEDULERS:
        counted = cfg.scheduler.get(key)
        if isinstance(counted, int):
            cfg.scheduler[key] = math.ceil(counted / k)
        elif counted is not None:
            cfg.scheduler[key] = [math.ceil(one / k) for one in counted]
    if cfg.schedule.get("epsilon_warmup"):
        cfg.schedule.epsilon_warmup = math.ceil(cfg.schedule.epsilon_warmup / k)
    say(
        f"{cfg.name}, larger_batch={k}: {before[0]} -> {cfg.data.batch_size} images an update, learning rate "
        f"{before[1]:g} -> {cfg.optimizer.lr:g}, {before[2]} -> {cfg.trainer.max_steps} updates"
    )
