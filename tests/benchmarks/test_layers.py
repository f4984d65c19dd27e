"""The table of executions that the benchmark writes is one that `auto` reads; profiles are measured by their levers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import layers, speed
from benchmarks.setting import Setting, settings
from robustdet.defences.aa_choices import CHOICES, FILE, read
from robustdet.defences.aa_conv import EXECUTIONS, fastest

CPU = torch.device("cpu")
SETTING = Setting(CPU, **settings(CPU, quick=True) | {"aa_batch": 2, "batch": 1, "repeats": 1})
DIFFERENT = EXECUTIONS.keys() - {"grouped_channels_last"}  # on a CPU that is `grouped`, and says nothing of its own
pytestmark = pytest.mark.usefixtures("one_thread")


def test_layers_are_measured_into_a_table_that_auto_then_goes_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = list(layers.measure(SETTING, tmp_path))
    assert [row.title.partition(" ")[0] for row in rows] == ["AA-convolutions"] * (1 + len(DIFFERENT) + 1)
    assert all(row.value is not None and row.value > 0 for row in rows)
    assert all(row.value >= 1 for row in rows[:-1])  # nothing is faster than the fastest
    written = read(tmp_path / FILE.name)
    assert written["cuda"] == CHOICES["cuda"]
    assert "torch" in str(written["cpu"].measured_on)
    model = SETTING.build(SETTING.robust_model)
    met = layers.layers(model, SETTING.batch_of(2, model.input_size).images)
    assert met.keys() == written["cpu"].layers.keys()
    assert set(written["cpu"].layers.values()) <= DIFFERENT
    monkeypatch.setitem(CHOICES, "cpu", written["cpu"])
    for signature, one in met.items():
        assert fastest(one.layer, torch.empty(one.shape)) == written["cpu"].layers[signature]


@pytest.mark.slow
def test_a_profile_is_measured_whole_and_by_each_of_its_levers(monkeypatch: pytest.MonkeyPatch):
    def once(works: dict[str, speed.Update], repeats: int, device: torch.device) -> dict[str, float]:
        works.popitem()[1]()  # the one that is compared with `exact`, which may have passed already
        return {"exact": 2.0, **dict.fromkeys(kinds, 1.0)}

    kinds = [f"{key}={value} alone" for key, value in list(speed.profile("fast").items())[1:] if value is not None]
    kinds = ["speed=fast", *kinds]
    monkeypatch.setattr(speed, "interleaved", once)
    rows = list(speed.measure(SETTING))
    assert [row.title for row in rows] == [f"an update of RobustDet* by {kind} / by speed=exact" for kind in kinds]
    assert {(row.value, row.verdict) for row in rows} == {(0.5, "met"), (0.5, "")}
