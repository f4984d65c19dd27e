"""Sets up robustdet from the folder that this file is in, without a network: sh install.sh [FOLDER]

Compares all files with the manifest, joins them, unpacks the checkout, makes its environment, puts data and weights
where its settings look for them. What is done is not done again: the same command goes on. Nothing but Python's own
library is needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import platform
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parent
MANIFEST = "manifest.json"
KINDS = ("source", "wheels", "weights", "data")  # in this order they are set up
STATE = ".bundle"  # in the checkout: wheels that were joined, and what is done
CHECKPOINTS = "weights/hub/checkpoints"  # where torch looks, once TORCH_HOME is weights
BLOCK = 2**20

File = dict[str, Any]  # path, size, sha256, parts: each with path, size, sha256


def read_manifest(bundle: Path) -> dict[str, Any]:
    file = bundle / MANIFEST
    if not file.is_file():
        sys.exit(f"{file} is missing: it is copied with all else, and a bundle that broke off has none")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        sys.exit(f"{file} is damaged, copy it again: {error}")


def require_python(manifest: dict[str, Any]) -> None:
    here = "{}.{}".format(*sys.version_info[:2])
    if here != manifest["python"]:
        sys.exit(f"The wheels are for Python {manifest['python']}, {sys.executable} is {here}: PYTHON=… sh install.sh")
    if platform.machine() != manifest["machine"]:
        sys.exit(f"The wheels are for {manifest['machine']}, this machine is {platform.machine()}")


def faults(bundle: Path, files: list[File]) -> Iterator[str]:
    """One line for each part that is not as it was written."""
    for part in (part for file in files for part in file["parts"]):
        place = bundle / part["path"]
        if not place.is_file():
            yield f"missing: {part['path']}"
        elif place.stat().st_size != part["size"]:
            yield f"damaged: {part['path']} has {place.stat().st_size} bytes instead of {part['size']}"
        elif digest(place) != part["sha256"]:
            yield f"damaged: {part['path']} has another content than was written"


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class Joined(io.RawIOBase):
    """The parts of a file, one after the other, to read; ``sha256`` is of what was read so far."""

    def __init__(self, bundle: Path, file: File) -> None:
        self.places = [bundle / part["path"] for part in file["parts"]]
        self.current: Any = None
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "a piece at a time"
        while True:
            if self.current is None:
                if not self.places:
                    return b""
                self.current = self.places.pop(0).open("rb")
            if content := self.current.read(size):
                self.sha256.update(content)
                return content
            self.current.close()
            self.current = None

    def close(self) -> None:
        if self.current is not None:
            self.current.close()
        super().close()


def join(bundle: Path, file: File, place: Path) -> None:
    """Writes the whole file to ``place``, which is there only when it is right."""
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f"{place.name}.unfinished")
    with Joined(bundle, file) as parts, unfinished.open("wb") as target:
        while block := parts.read(BLOCK):
            target.write(block)
    if parts.sha256.hexdigest() != file["sha256"]:
        sys.exit(f"{file['path']}: its parts are right and together they are not: make the bundle again")
    unfinished.replace(place)


def unpack(bundle: Path, file: File, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with Joined(bundle, file) as parts, tarfile.open(fileobj=parts, mode="r|*") as tar:
        tar.extractall(folder, filter="data")


# What is set up, by kind


def set_up_source(bundle: Path, manifest: dict[str, Any], files: list[File], folder: Path) -> None:
    for file in files:
        unpack(bundle, file, folder)


def set_up_weights(bundle: Path, manifest: dict[str, Any], files: list[File], folder: Path) -> None:
    for file in files:
        join(bundle, file, folder / CHECKPOINTS / Path(file["path"]).name)


def set_up_data(bundle: Path, manifest: dict[str, Any], files: list[File], folder: Path) -> None:
    for file in files:
        unpack(bundle, file, folder / "data")


def set_up_wheels(bundle: Path, manifest: dict[str, Any], files: list[File], folder: Path) -> None:
    """The environment .venv, which sees what the target HAS; the Makefile takes it as its own."""
    joined = folder / STATE / "wheels"
    for file in files:
        if len(file["parts"]) > 1:
            join(bundle, file, joined / Path(file["path"]).name)
    joined.mkdir(parents=True, exist_ok=True)
    python = make_environment(folder / ".venv", bool(manifest["have"]))
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index"]
    links = ["--find-links", str(bundle / "wheels"), "--find-links", str(joined)]
    run(*install, *links, *(f"{name}=={version}" for name, version in manifest["pins"].items()))
    run(*install, "--no-build-isolation", "--editable", str(folder))
    said = subprocess.run([*pip, "check"], capture_output=True, encoding="utf-8").stdout.splitlines()
    if wrong := [line for line in said if line.startswith("robustdet ")]:
        sys.exit("What this machine has is not what robustdet needs:\n" + "\n".join(wrong))
    (folder / ".venv" / ".ready").touch()  # Makefile: nothing to set up any more
    shutil.rmtree(joined)


def make_environment(place: Path, outer: bool) -> Path:
    """An environment with pip, and its Python. With ``outer`` it sees what the Python that runs this one sees."""
    have_pip = importlib.util.find_spec("ensurepip") is not None or not outer
    words = [*(["--system-site-packages"] if outer else []), *([] if have_pip else ["--without-pip"])]
    run(sys.executable, "-m", "venv", *words, str(place))
    python = place / "bin" / "python"
    if outer and sys.prefix != sys.base_prefix:  # of an environment, venv would show what lies below it, not its own
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        inner = subprocess.run([python, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout.strip()
        own = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
        (Path(inner) / "outer.pth").write_text("\n".join(sorted(own)) + "\n", encoding="utf-8")
    return python


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(command[:5])} … failed:\n{(done.stderr or done.stdout).strip()}")


Step = Callable[[Path, dict[str, Any], list[File], Path], None]
STEPS: dict[str, Step] = {
    "source": set_up_source,
    "wheels": set_up_wheels,
    "weights": set_up_weights,
    "data": set_up_data,
}


def set_up(bundle: Path, folder: Path, say: Callable[[str], None] = print) -> None:
    """All steps that are not done yet; ends the process with a sentence where that is not possible."""
    manifest, memory = read_manifest(bundle), folder / STATE / "done.json"
    require_python(manifest)
    if folder.exists() and any(folder.iterdir()) and not memory.is_file():
        sys.exit(f"{folder} holds something else already: name a folder that is empty, or not there")
    done = json.loads(memory.read_text(encoding="utf-8")) if memory.is_file() else {}
    files = {kind: [file for file in manifest["files"] if file["path"].startswith(f"{kind}/")] for kind in KINDS}
    marks = {kind: sorted(file["sha256"] for file in of) for kind, of in files.items()}
    left = [kind for kind in KINDS if done.get(kind) != marks[kind]]
    say(f"Comparing {', '.join(left) or 'nothing, all is done'} with {bundle / MANIFEST}")
    if wrong := list(faults(bundle, [file for kind in left for file in files[kind]])):
        sys.exit("\n".join([*wrong, "Copy these again, and start the same command again"]))
    memory.parent.mkdir(parents=True, exist_ok=True)
    for kind in left:
        memory.write_text(json.dumps(done), encoding="utf-8")
        if files[kind]:
            say(f"{kind}: {len(files[kind])} files, {sum(file['size'] for file in files[kind]) / 1e6:.0f} MB")
            STEPS[kind](bundle, manifest, files[kind], folder)
        done[kind] = marks[kind]
        memory.write_text(json.dumps(done), encoding="utf-8")


def next_commands(manifest: dict[str, Any], folder: Path) -> list[str]:
    """What to type now. Data called voc and coco are where `conf/data` looks for them; others need their path."""
    lines = [f"cd {folder}", ". .venv/bin/activate"]
    paths = [Path(file["path"]) for file in manifest["files"]]
    if any(path.parts[0] == "weights" for path in paths):
        lines.append(f"export TORCH_HOME={folder / 'weights'}  # weights=imagenet are found there")
    lines.append("python -m benchmarks.gpu --quick")
    for path in (path for path in paths if path.parts[0] == "data"):
        if path.stem in ("voc", "coco"):
            lines.append(f"python -m src.train experiment={path.stem}_std")
        else:
            lines.append(f"python -m src.train data=voc data.root=data/{path.stem} model=mobilenet_ssd")
    return lines


def main() -> None:
    if len(sys.argv) > 2 or any(word.startswith("-") for word in sys.argv[1:]):
        sys.exit(__doc__)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "robustdet").resolve()
    try:
        set_up(BUNDLE, folder, lambda line: print(line, flush=True))
    except OSError as error:
        sys.exit(f"{error.filename or folder}: {error.strerror or error}")
    print("Ready. Now:\n  " + "\n  ".join(next_commands(read_manifest(BUNDLE), folder)))


if __name__ == "__main__":
    main()
