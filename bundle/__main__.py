"""`python -m bundle` (`make bundle`): a folder that sets up a machine without a network; docs/gpu.md."""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle import install
from bundle.closure import asked, closure, target
from bundle.parts import Part, Splitter, Whole, split
from bundle.wheels import download, platforms
from robustdet.errors import InputError, MissingFileError, OccupiedError, RobustdetError

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 10**6
INSTALLER = "install.py"
START = """#!/bin/sh
# Sets up robustdet from this folder, without a network: sh install.sh [FOLDER]; PYTHON=… names another Python {python}.
exec "${{PYTHON:-python{python}}}" "$(dirname "$0")/install.py" "$@"
"""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bundle", description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder: VOC, COCO, or your own of their layout")
    parser.add_argument("--weights", nargs="*", default=[], type=Path, metavar="FILE", help="such as torchvision's")
    parser.add_argument("--python-version", default="{}.{}".format(*sys.version_info[:2]), help="the target's")
    parser.add_argument("--platform", default=f"manylinux_2_28_{platform.machine()}", help="glibc and processor")
    parser.add_argument("--have", nargs="*", default=[], metavar="NAME", help="distributions that the target has")
    parser.add_argument("--extras", nargs="*", default=["gpu"], metavar="NAME", help="of pyproject.toml")
    parser.add_argument("--part", type=float, default=55, metavar="MB", help="the largest file of the bundle")
    parser.add_argument("--output", type=Path, default=Path("outputs/bundle"))
    return parser.parse_args(given)


def make(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the folder anew; what its `manifest.json` says.

    Raises InputError, MissingFileError, OccupiedError or TransferError where it cannot be made.
    """
    check(args)
    machine = args.platform.split("_", 3)[3]
    pins = closure(asked(ROOT / "pyproject.toml", args.extras), args.have, target(args.python_version, machine))
    print(f"{len(pins)} distributions for Python {args.python_version} on {args.platform}", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    shutil.copy(install.__file__, args.output / INSTALLER)
    for kind in install.KINDS:
        shutil.rmtree(args.output / kind, ignore_errors=True)
    (args.output / install.MANIFEST).unlink(missing_ok=True)  # written last: a bundle that broke off has none
    most = int(args.part * MEGABYTE)
    wholes = [archive(args.output, most), *wheels(pins, args, most)]
    wholes += [split(file, args.output, f"weights/{file.name}", most) for file in args.weights]
    wholes += [pack(args.data, args.output, most)] if args.data else []
    (args.output / "install.sh").write_text(START.format(python=args.python_version), encoding="utf-8")
    manifest = {
        "commit": git("rev-parse", "HEAD").strip(),
        "python": args.python_version,
        "machine": machine,
        "have": sorted(args.have),
        "extras": args.extras,
        "pins": pins,
        "files": [whole.described() for whole in wholes],
    }
    (args.output / install.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def check(args: argparse.Namespace) -> None:
    """Before minutes are spent."""
    platforms(args.platform)
    if args.data and not args.data.is_dir():
        raise MissingFileError(f"--data {args.data}: no such folder")
    if not re.fullmatch(r"3\.\d+", args.python_version):
        raise InputError(f"--python-version {args.python_version}: expected a number such as 3.12")
    names: dict[str, Path] = {}
    for file in args.weights:
        if not file.is_file():
            raise MissingFileError(f"--weights {file}: no such file")
        if (other := names.setdefault(file.name, file)) is not file:
            raise InputError(f"--weights {other} and {file} are called alike, and lie in one folder there: rename one")
    if args.part * MEGABYTE < 1:
        raise InputError(f"--part {args.part:g}: expected megabytes, more than none")
    if args.output.is_file():
        raise OccupiedError(f"--output {args.output} is a file: name a folder")
    if args.output.exists() and any(args.output.iterdir()) and not (args.output / INSTALLER).is_file():
        raise OccupiedError(f"--output {args.output} holds something else, which would be removed: name another folder")


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout


def archive(folder: Path, most: int) -> Whole:
    """The checkout as it was committed last."""
    if git("status", "--porcelain", "--untracked-files=no"):
        print("Changes that are not committed are left out")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "robustdet.tar.gz"
        git("archive", "--format=tar.gz", f"--output={file}", "HEAD")
        return split(file, folder, f"source/{file.name}", most)


def wheels(pins: dict[str, str], args: argparse.Namespace, most: int) -> list[Whole]:
    with tempfile.TemporaryDirectory() as place:
        download(pins, Path(place), args.python_version, args.platform)
        return [split(file, args.output, f"wheels/{file.name}", most) for file in sorted(Path(place).iterdir())]


def pack(data: Path, folder: Path, most: int) -> Whole:
    """A folder of data as an archive, called as `conf/data` looks for it; links are replaced by what they point to."""
    name = called(data)
    with (
        Splitter(folder, f"data/{name}.tar", most) as target,
        tarfile.open(fileobj=target, mode="w|", dereference=True) as tar,
    ):
        tar.add(data, arcname=name)
    return target.whole


def called(data: Path) -> str:
    """The name "voc" or "coco" by its layout, or the folder's own where it is like neither."""
    if any((data / name).is_dir() for name in ("VOC2007", "VOC2012", "VOCdevkit", "JPEGImages")):
        return "voc"
    if any((data / "annotations").glob("instances_*.json")):
        return "coco"
    return data.resolve().name


def main() -> None:
    args, start = arguments(), time.perf_counter()
    try:
        manifest = make(args)
    except RobustdetError as error:
        sys.exit(str(error))
    parts = [Part(**part) for one in manifest["files"] for part in one["parts"]]
    print(f"{args.output}: {len(parts)} files, {sum(part.size for part in parts) / MEGABYTE:.0f} MB, the largest "
          f"{max(part.size for part in parts) / MEGABYTE:.1f} MB, in {time.perf_counter() - start:.0f} s")  # fmt: skip
    print(f"Copy the folder to the target, and there: sh {args.output.name}/install.sh FOLDER")


if __name__ == "__main__":
    main()
