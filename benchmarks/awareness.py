"""What adversarially-aware convolutions cost a small network of pointwise and depthwise ones, by where they are."""

from __future__ import annotations

from typing import Any

from benchmarks.executions import discriminating
from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.steps import bare
from benchmarks.timing import interleaved

PLAIN, ROBUST = "mobilenet_ssd", "robust_mobilenet_ssd"
WHERE = {"all": "all", "15": "from the projection of block 4 on", "heads": "heads only"}


def measure(setting: Setting) -> list[Row]:
    plain = setting.build(PLAIN)
    robust = {where: setting.build(ROBUST, f"adversarially_aware={where}") for where in WHERE}
    images = setting.batch_of(setting.aa_batch, plain.input_size).images
    works: dict[str, Any] = {
        "SSD": lambda: bare(plain, images),
        "AID": lambda: discriminating(robust["all"], images),
    }
    works |= {where: lambda network=network: bare(network, images) for where, network in robust.items()}
    seconds = interleaved(works, setting.repeats, setting.device)
    floor = seconds["SSD"] + seconds["AID"]
    note = f"{ROBUST}, batch {setting.aa_batch}, forward + input-backward"
    return [
        Row(
            "defence",
            f"RobustDet, convolutions aware: {said} / (SSD + AID)",
            seconds[where] / floor,
            note=note,
            seconds={key: seconds[key] for key in (where, "SSD", "AID")},
        )
        for where, said in WHERE.items()
    ]
