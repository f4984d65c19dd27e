"""Trained weights by name. The network is played: what would be downloaded is written by the test."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision.models import ResNet18_Weights, VGG16_Weights, Weights, WeightsEnum

from robustdet.detection.backbones.vgg import TRAINED as VGG16
from robustdet.detection.pretrained import cached_file, located
from robustdet.errors import InputError, MissingFileError

KEY = "model.weights"
CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def served(folder: Path, digest: str) -> WeightsEnum:
    """An entry as torchvision's, whose file can be had here."""
    (folder / f"net-{digest}.pth").write_bytes(CONTENT)

    class Served(WeightsEnum):
        ONE = Weights((folder / f"net-{digest}.pth").as_uri(), transforms=None, meta={})

    return Served.ONE


def test_it_is_downloaded_once(cache: Path, tmp_path: Path) -> None:
    own = served(tmp_path, DIGEST[:8])
    assert located("imagenet", own, KEY) == cache / f"net-{DIGEST[:8]}.pth"
    (tmp_path / f"net-{DIGEST[:8]}.pth").unlink()
    assert located("imagenet", own, KEY).read_bytes() == CONTENT


def test_another_content_than_the_name_says_is_refused_and_not_kept(cache: Path, tmp_path: Path) -> None:
    own = served(tmp_path, "0" * 8)
    with pytest.raises(MissingFileError, match=r"net-00000000.pth is not in .*: invalid hash value"):
        located("imagenet", own, KEY)
    assert not (cache / "net-00000000.pth").exists()


def test_without_a_network_the_file_and_its_place_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **keywords: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(MissingFileError) as told:
        located("imagenet", VGG16, KEY)
    for part in (str(cache), VGG16.url, "put it there", "model.weights=FILE", "model.weights=null", "no route to host"):
        assert part in str(told.value)


def test_a_file_in_the_cache_needs_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it was there"))
    cache.mkdir(parents=True)
    cached_file(ResNet18_Weights.IMAGENET1K_V1).write_bytes(b"")
    assert located("imagenet", ResNet18_Weights.IMAGENET1K_V1, KEY) == cache / "resnet18-f37072fd.pth"


def test_a_network_without_trained_weights_takes_none() -> None:
    with pytest.raises(InputError, match=r"^model.weights=imagenet: this network has no trained weights, set .*=null$"):
        located("imagenet", None, KEY)


def test_ssd_feeds_what_its_file_was_trained_on() -> None:
    """Torchvision's note on this entry: images on 0..255 less their mean, not divided by a deviation."""
    assert VGG16 is VGG16_Weights.IMAGENET1K_FEATURES
    transforms = VGG16.transforms()
    assert [round(255 * value) for value in transforms.mean] == [123, 117, 104]
    assert [round(255 * value) for value in transforms.std] == [1, 1, 1]
