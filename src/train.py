"""`python -m src.train experiment=shapes_std`: trains one experiment, its clean stage first where it needs one."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from robustdet.interop.checkpoints import load_checkpoint
from robustdet.training.progress import TrainingProgress
from src.building import build, build_module, build_trainer, prepare, save_config
from src.clean_stage import RUN_FILE, clean_checkpoint, fingerprint
from src.composition import launcher


def train(cfg: DictConfig) -> Path:
    """Trains what ``cfg`` describes in ``cfg.paths.run``; returns the finished checkpoint."""
    start = clean_checkpoint(cfg, train)
    prepare(cfg)
    folder = Path(cfg.paths.run)
    save_config(cfg, folder)
    experiment = build(cfg)
    if start is not None:
        experiment.model.warm_start(load_checkpoint(start).state_dict)
    module = build_module(cfg, experiment)
    trainer = build_trainer(cfg, [TrainingProgress()])
    print(f"{cfg.name}: {experiment.data.name}, {experiment.num_classes} classes; writing to {folder}")
    trainer.fit(module, experiment.data, ckpt_path=cfg.ckpt_path)
    checkpoint = folder / "checkpoints" / "final.ckpt"
    trainer.save_checkpoint(checkpoint)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    described = {
        "experiment": cfg.name,
        "checkpoint": str(checkpoint.relative_to(folder)),
        "fingerprint": fingerprint(cfg),
        "updates": trainer.global_step,
        "metrics": metrics,
    }
    (folder / RUN_FILE).write_text(json.dumps(described, indent=2) + "\n")
    for name in sorted(metrics):
        print(f"  {name:24s} {metrics[name]:.4f}")
    print(f"Finished {cfg.name} after {trainer.global_step} updates: {checkpoint}")
    return checkpoint


@launcher("train")
def main(cfg: DictConfig) -> float | None:
    folder = train(cfg).parent.parent
    return json.loads((folder / RUN_FILE).read_text())["metrics"].get("val/AP50_attacked")


if __name__ == "__main__":
    main()
