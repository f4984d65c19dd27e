"""`python -m src.predict ckpt_path=… image=photo.jpg attack=pgd_cls`: what a detector sees there, before and after.

A checkpoint of a run and a picture are all it needs: no data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from robustdet.analysis.figures.observation import Grouped
from robustdet.analysis.figures.study import Findings, save
from robustdet.analysis.prediction import PredictedBox, boxes_of, draw, predict
from robustdet.cli.building import build_trainer, prepare
from robustdet.cli.instantiating import instantiate
from robustdet.cli.launcher import launcher
from robustdet.cli.subjects import checkpoints, keys_of, without_data
from robustdet.data.photo import read_photo
from robustdet.errors import InputError


def run(cfg: DictConfig, attack_name: str | None, overrides: Iterable[str] = ()) -> list[Path]:
    """Writes a picture (pdf, png) and the boxes (csv) of each photograph; returns the files.

    ``overrides`` are the command-line arguments that ``cfg`` comes from.
    """
    prepare(cfg)
    found = checkpoints(cfg, keys_of(overrides))
    if len(found) != 1:
        raise InputError(f"src.predict looks with one detector, got {len(found)}: {', '.join(found)}")
    ((label, one),) = found.items()
    photos = [Path(photo) for photo in (cfg.image if isinstance(cfg.image, ListConfig) else [cfg.image])]
    require_names(photos)
    device = build_trainer(cfg, []).strategy.root_device
    detector, classes = without_data(one, cfg)
    detector.to(device)
    attack = instantiate(cfg.attack) if attack_name is not None else None
    files = []
    for photo in photos:
        image, size = read_photo(photo, detector.input_size)
        views = predict(detector, image.to(device), size, attack, attack_name or "", cfg.threshold, cfg.seed)
        boxes = boxes_of(views, size, classes)
        print(f"{photo} ({size[1]} x {size[0]} pixels), seen by {label}")
        for box in boxes:
            print(f"  {box.view:10s} {box.label:14s} {box.score:.2f}   "
                  f"({box.x0:.0f}, {box.y0:.0f}) to ({box.x1:.0f}, {box.y1:.0f})")  # fmt: skip
        for view, seen in views.items():
            if not len(seen.found.labels):
                print(f"  {view:10s} nothing has a score above {cfg.threshold:g}")
        files += save(Findings(draw(views, size, classes), PredictedBox, boxes), Path(cfg.paths.run), photo.stem)
    print("\n".join(map(str, files)))
    return files


def require_names(photos: Sequence[Path]) -> None:
    """Raises ValueError naming photographs whose pictures would overwrite each other's, being called alike."""
    for name, alike in Grouped(photos, lambda photo: photo.stem).items():
        if len(alike) > 1:
            raise InputError(
                f"image: what is found in {' and '.join(map(str, alike))} would be written to the same files, "
                f"{name}.pdf, .png and .csv: look at them one by one, each with a paths.run of its own"
            )


@launcher("predict")
def main(cfg: DictConfig) -> None:
    hydra = HydraConfig.get()
    run(cfg, hydra.runtime.choices.get("attack"), hydra.overrides.task)
