"""Files are cut, compared, joined and set up; what is damaged is named, and the next try goes on."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bundle import install
from bundle.__main__ import arguments, called, check, pack
from bundle.parts import Splitter, split
from bundle.wheels import platforms
from robustdet.errors import InputError, MissingFileError, OccupiedError

CONTENT = random.Random(0).randbytes(2500)


@pytest.mark.parametrize(("size", "sizes"), [(2500, [2500]), (1250, [1250, 1250]), (1000, [1000, 1000, 500])])
def test_a_file_is_cut_and_joined(tmp_path: Path, size: int, sizes: list[int]):
    (tmp_path / "whole").write_bytes(CONTENT)
    found = split(tmp_path / "whole", tmp_path / "bundle", "wheels/whole", size)
    assert [part.size for part in found.parts] == sizes
    assert [(tmp_path / "bundle" / part.path).stat().st_size for part in found.parts] == sizes
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert list(install.faults(tmp_path / "bundle", [found.described()])) == []
    install.join(tmp_path / "bundle", found.described(), tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == CONTENT


def test_a_file_of_one_part_has_its_own_name_and_an_empty_one_is_a_file(tmp_path: Path):
    with Splitter(tmp_path, "wheels/empty", 10) as target:
        pass
    (part,) = target.whole.parts
    assert (part.path, part.size, (tmp_path / "wheels" / "empty").read_bytes()) == ("wheels/empty", 0, b"")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("VOC2007/JPEGImages", "voc"), ("JPEGImages", "voc"), ("annotations", "coco"), ("pictures", "mine")],
)
def test_data_is_called_as_its_settings_look_for_it(tmp_path: Path, folder: str, name: str):
    (tmp_path / "mine" / folder).mkdir(parents=True)
    (tmp_path / "mine" / folder / "instances_train2017.json").touch()
    assert called(tmp_path / "mine") == name


def bundle_of(folder: Path, most: int = 1000) -> Path:
    """A bundle of a checkout, weights and data, without wheels."""
    (folder / "checkout" / "src").mkdir(parents=True)
    (folder / "checkout" / "src" / "code.py").write_bytes(CONTENT)
    with tarfile.open(folder / "robustdet.tar.gz", "w:gz") as tar:
        tar.add(folder / "checkout", arcname=".")
    (folder / "mine" / "JPEGImages").mkdir(parents=True)
    (folder / "mine" / "JPEGImages" / "1.jpg").write_bytes(CONTENT)
    (folder / "mine" / "JPEGImages" / "2.jpg").symlink_to("1.jpg")
    (folder / "net-0123abcd.pth").write_bytes(CONTENT[:700])
    bundle = folder / "bundle"
    files = [
        split(folder / "robustdet.tar.gz", bundle, "source/robustdet.tar.gz", most),
        split(folder / "net-0123abcd.pth", bundle, "weights/net-0123abcd.pth", most),
        pack(folder / "mine", bundle, most),
    ]
    said = {"python": "{}.{}".format(*sys.version_info[:2]), "machine": install.platform.machine(), "have": []}
    manifest = {**said, "pins": {}, "files": [file.described() for file in files]}
    (bundle / install.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return bundle


def test_a_bundle_is_set_up_and_not_done_again(tmp_path: Path):
    bundle, folder, said = bundle_of(tmp_path), tmp_path / "set up", []
    install.set_up(bundle, folder, said.append)
    assert (folder / "src" / "code.py").read_bytes() == CONTENT
    assert (folder / "weights" / "hub" / "checkpoints" / "net-0123abcd.pth").read_bytes() == CONTENT[:700]
    for name in ("1.jpg", "2.jpg"):
        assert (folder / "data" / "voc" / "JPEGImages" / name).read_bytes() == CONTENT  # also what was a link
    assert [line.partition(":")[0] for line in said[1:]] == ["source", "weights", "data"]
    (folder / "src" / "code.py").unlink()
    install.set_up(bundle, folder, said.append)
    assert said[-1].startswith("Comparing nothing, all is done")
    assert not (folder / "src" / "code.py").exists()
    commands = install.next_commands(install.read_manifest(bundle), folder)
    assert f"export TORCH_HOME={folder / 'weights'}  # weights=imagenet are found there" in commands
    assert commands[-1] == "python -m src.train experiment=voc_std"


def test_what_is_damaged_or_missing_is_named_and_the_next_try_goes_on(tmp_path: Path):
    bundle, folder = bundle_of(tmp_path), tmp_path / "set up"
    short, other, gone = (bundle / f"data/voc.tar.{number:03d}" for number in (1, 2, 3))
    kept = {place: place.read_bytes() for place in (short, other, gone)}
    short.write_bytes(kept[short][:-1])
    other.write_bytes(b"x" + kept[other][1:])
    gone.unlink()
    with pytest.raises(SystemExit) as ended:
        install.set_up(bundle, folder)
    assert str(ended.value).splitlines() == [
        "damaged: data/voc.tar.001 has 999 bytes instead of 1000",
        "damaged: data/voc.tar.002 has another content than was written",
        "missing: data/voc.tar.003",
        "Copy these again, and start the same command again",
    ]
    assert not folder.exists()
    for place, content in kept.items():
        place.write_bytes(content)
    install.set_up(bundle, folder)
    assert (folder / "data" / "voc" / "JPEGImages" / "1.jpg").read_bytes() == CONTENT


def test_a_step_that_failed_is_done_again_and_those_before_it_are_not(tmp_path: Path, monkeypatch: Any):
    bundle, folder, said = bundle_of(tmp_path), tmp_path / "set up", []

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setitem(install.STEPS, "weights", full)
        patch.setattr(install, "BUNDLE", bundle)
        patch.setattr(sys, "argv", ["install.py", str(folder)])
        with pytest.raises(SystemExit, match=r"^somewhere: No space left on device$"):
            install.main()
    install.set_up(bundle, folder, said.append)
    assert [line.partition(":")[0] for line in said[1:]] == ["weights", "data"]


def test_another_python_and_a_folder_in_use_are_refused(tmp_path: Path):
    bundle, folder = bundle_of(tmp_path), tmp_path / "used"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(SystemExit, match="used holds something else already"):
        install.set_up(bundle, folder)
    manifest = install.read_manifest(bundle)
    (bundle / install.MANIFEST).write_text(json.dumps(manifest | {"python": "3.9"}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"The wheels are for Python 3\.9, .* is 3\."):
        install.set_up(bundle, tmp_path / "new")


def test_the_installer_needs_nothing_but_python(tmp_path: Path):
    """Isolated from all that is installed; the folder of its file has no manifest."""
    (tmp_path / "install.py").write_bytes(Path(install.__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(tmp_path / "install.py")], capture_output=True, encoding="utf-8"
    )
    assert done.stderr.startswith(f"{tmp_path / 'manifest.json'} is missing"), done.stderr


def test_what_is_wrong_is_said_before_anything_is_fetched(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"--data .*gone: no such folder"):
        check(arguments(["--data", str(tmp_path / "gone")]))
    with pytest.raises(MissingFileError, match=r"--weights .*gone: no such file"):
        check(arguments(["--weights", str(tmp_path / "gone")]))
    with pytest.raises(InputError, match="expected manylinux_2_GLIBC_MACHINE"):
        check(arguments(["--platform", "win_amd64"]))
    with pytest.raises(InputError, match="--part 0: expected megabytes"):
        check(arguments(["--part", "0"]))
    with pytest.raises(InputError, match=r"--python-version 3\.12\.1: expected a number such as 3\.12"):
        check(arguments(["--python-version", "3.12.1"]))
    alike = [tmp_path / "a" / "net.pth", tmp_path / "b" / "net.pth"]
    for file in alike:
        file.parent.mkdir()
        file.touch()
    with pytest.raises(InputError, match=r"--weights .*net\.pth and .*net\.pth are called alike"):
        check(arguments(["--weights", *map(str, alike)]))
    with pytest.raises(OccupiedError, match=r"--output .*net\.pth is a file: name a folder"):
        check(arguments(["--output", str(alike[0])]))
    (tmp_path / "data").mkdir()
    with pytest.raises(OccupiedError, match="holds something else, which would be removed"):
        check(arguments(["--output", str(tmp_path)]))


def test_a_platform_takes_wheels_of_older_ones():
    tags = platforms("manylinux_2_18_aarch64")
    assert tags[:3] == ["manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert tags[-3:] == ["manylinux_2_5_aarch64", "manylinux1_aarch64", "linux_aarch64"]
