import json
from dataclasses import replace
from itertools import product

import pytest
import torch

from robustdet.evaluation.shards import Shards
from robustdet.evaluation.store import Outcome, OutcomeStore
from tests.evaluation.scenes import scene

SETTINGS = {"checkpoint": "abc", "attack": {"steps": 20, "epsilon": "8/255"}, "seed": 0}


def outcomes(found):
    """The detections after rounding are the next image's."""
    found = list(found)
    numbers = [{"loss": 0.1 * i, "linf": float("inf")} for i in range(len(found))]
    return [Outcome(d, n, e) for d, n, e in zip(found, numbers, [*found[1:], found[0]], strict=True)]


def test_what_comes_back_is_exactly_what_went_in(tmp_path):
    found, _ = scene(num_images=9, num_classes=3, seed=0, most_objects=2, clutter=1)
    assert any(len(d.labels) == 0 for d in found.values())
    names, written = list(found), outcomes(found.values())
    store = OutcomeStore(tmp_path, "pgd", SETTINGS)
    for batch in (slice(0, 4), slice(4, 8), slice(8, 9)):
        store.append(names[batch], written[batch])
    for name, outcome in OutcomeStore(tmp_path, "pgd", SETTINGS).read().items():
        original = written[names.index(name)]
        assert outcome.measures == original.measures
        for kind, field in product(("detections", "detections_8bit"), ("boxes", "scores", "labels")):
            kept, put = (getattr(getattr(one, kind), field) for one in (outcome, original))
            torch.testing.assert_close(kept, put, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_detections_of_every_precision_can_be_kept(tmp_path, dtype):
    found = next(iter(scene(num_images=1, num_classes=3, seed=0)[0].values()))
    found = replace(found, boxes=found.boxes.to(dtype), scores=found.scores.to(dtype))
    store = OutcomeStore(tmp_path, "pgd", SETTINGS)
    store.append(["a"], outcomes([found]))
    kept = store.read()["a"].detections
    torch.testing.assert_close(kept.scores.to(dtype), found.scores, rtol=0, atol=0)
    torch.testing.assert_close(kept.boxes.to(dtype), found.boxes, rtol=0, atol=0)


def test_an_interrupted_write_leaves_nothing_behind_its_name(tmp_path, monkeypatch):
    found, _ = scene(num_images=2, num_classes=3, seed=0)
    store = OutcomeStore(tmp_path, "pgd", SETTINGS)
    store.append(["a"], outcomes([found["000000"]]))

    def power_cut(_):
        raise OSError("no more power")

    monkeypatch.setattr("os.fsync", power_cut)
    with pytest.raises(OSError, match="no more power"):
        store.append(["b"], outcomes([found["000001"]]))
    assert store.done == {"a"}
    resumed = OutcomeStore(tmp_path, "pgd", SETTINGS)
    assert resumed.done == {"a"}
    assert list(resumed.read()) == ["a"]


def test_other_settings_have_a_folder_of_their_own_that_says_what_they_are(tmp_path):
    found, _ = scene(num_images=1, num_classes=3, seed=0)
    OutcomeStore(tmp_path, "pgd", SETTINGS).append(["a"], outcomes(found.values()))
    other = {**SETTINGS, "attack": {"steps": 50, "epsilon": "8/255"}}
    assert OutcomeStore(tmp_path, "pgd", other).done == frozenset()
    assert OutcomeStore(tmp_path, "fgsm", SETTINGS).done == frozenset()
    assert OutcomeStore(tmp_path, "pgd", SETTINGS).done == {"a"}
    saved = [json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("detections/pgd-*/settings.json")]
    assert sorted(s["attack"]["steps"] for s in saved) == [20, 50]


def test_two_processes_may_share_a_folder_and_repeat_an_image(tmp_path):
    found, _ = scene(num_images=5, num_classes=3, seed=0)
    names, written = list(found), outcomes(found.values())
    first, second = (OutcomeStore(tmp_path, "pgd", SETTINGS) for _ in range(2))
    first.append(names[:3], written[:3])
    second.append([*names[3:], names[0]], [*written[3:], written[0]])  # a distributed sampler fills up its last batch
    assert list(first.read()) == names
    assert second.read()[names[0]].measures == written[0].measures


def test_shards_keep_rows_of_different_lengths_apart(tmp_path):
    shards = Shards(tmp_path, dict)
    rows = [{"x": torch.arange(n).numpy()} for n in (0, 3, 0, 2)]
    shards.append(list("abcd"), rows)
    assert {k: v["x"].tolist() for k, v in shards.read().items()} == {"a": [], "b": [0, 1, 2], "c": [], "d": [0, 1]}


@pytest.mark.parametrize("left", [0, 10, 200])
def test_a_damaged_file_is_named_and_made_again(tmp_path, caplog, left):
    Shards(tmp_path, dict).append(["a"], [{"x": torch.arange(3).numpy()}])
    Shards(tmp_path, dict).append(["b"], [{"x": torch.arange(3).numpy()}])
    file = sorted(tmp_path.glob("*.npz"))[0]
    file.write_bytes(file.read_bytes()[:left])  # a full disk
    shards = Shards(tmp_path, dict)
    assert len(shards.done) == len(shards.read()) == 1
    assert f"{file} is damaged" in caplog.text
    assert not file.exists()


def test_fresh_throws_away_what_is_stored_for_these_settings_alone(tmp_path):
    found, _ = scene(num_images=1, num_classes=3, seed=0)
    OutcomeStore(tmp_path, "pgd", SETTINGS).append(["a"], outcomes(found.values()))
    OutcomeStore(tmp_path, "pgd", {**SETTINGS, "seed": 1}).append(["a"], outcomes(found.values()))
    assert OutcomeStore(tmp_path, "pgd", SETTINGS, fresh=True).read() == {}
    assert OutcomeStore(tmp_path, "pgd", SETTINGS).done == frozenset()
    assert OutcomeStore(tmp_path, "pgd", {**SETTINGS, "seed": 1}).done == {"a"}
