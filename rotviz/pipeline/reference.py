"""The float model's last hidden states, kept: every recipe on the same model and windows is compared with the same reference.

The first run over some windows pushes them through the float model as well as through the quantized one and keeps what comes out of the last
block, [N, L, D], and which tokens were massive; later runs push only their first batch through the float model, which the errors by block need, and
read the rest. Comparing ten recipes then costs eleven passes, not twenty.

A file's name follows everything that decides the numbers: the weights themselves (not their name), the tokens, dtype, device and versions.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rotviz.config import fingerprint
from rotviz.errors import OutOfRoom
from rotviz.home import home, write_atomically
from rotviz.pipeline.prepare import Prepared

KEPT_BYTES = 8e9
"""How much is kept; the files that were not used for the longest time go first."""


def reference_path(prepared: Prepared, tokens: Tensor) -> Path:
    """Where the reference of this model on these tokens [N, L] is kept."""
    key = {"weights": prepared.source.content_mark, "tokens": hashlib.sha256(tokens.cpu().numpy().tobytes()).hexdigest(),
           "shape": list(tokens.shape), "dtype": prepared.recipe.dtype, "device": prepared.device.type,
           "versions": [torch.__version__, transformers.__version__], "threads": torch.get_num_threads()}
    return home() / "references" / f"{fingerprint(key)}.safetensors"


@dataclass(frozen=True)
class Reference:
    """The float model's stream: hidden states [N, L, D] after the last block, and how often each token was massive on the way, uint8 [N, L] (None in
    files that an older version kept)."""

    hidden: Tensor
    massive: Tensor | None


def kept_reference(path: Path) -> Reference | None:
    """A reference that was kept, or None: not there, or not readable."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        path.touch()
        return Reference(found["hidden"], found.get("massive"))
    except (SafetensorError, OSError, KeyError):
        return None


def keep_reference(path: Path, reference: Reference) -> None:
    """Keep a reference. A full disk is no reason to fail: the next run computes it again."""
    tensors = {"hidden": reference.hidden, "massive": reference.massive}
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
    with contextlib.suppress(OutOfRoom):
        write_atomically(path, lambda target: save_file(plain, target))
    _tidy(path.parent)


def _tidy(folder: Path) -> None:
    newest = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in newest:
        total += file.stat().st_size
        if total > KEPT_BYTES:
            file.unlink(missing_ok=True)
