"""The float model's last hidden states, kept: every recipe on the same model and windows is compared with the same reference.

The first run over some windows pushes them through the float model as well as through the quantized one and keeps what comes out of the last
block, [N, L, D]; later runs push only their first batch through the float model, which the errors by block need, and read the rest.
Comparing ten recipes then costs eleven passes, not twenty.

A file's name follows everything that decides the numbers: the weights themselves (not their name), the tokens, dtype, device and versions.
"""

import contextlib
import hashlib
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


def kept_reference(path: Path) -> Tensor | None:
    """The hidden states [N, L, D] of a reference, or None: not there, or not readable."""
    try:
        with safe_open(path, framework="pt") as file:
            hidden = file.get_tensor("hidden")
        path.touch()
    except (SafetensorError, OSError):
        return None
    return hidden


def keep_reference(path: Path, hidden: Tensor) -> None:
    """Keep a reference. A full disk is no reason to fail: the next run computes it again."""
    with contextlib.suppress(OutOfRoom):
        write_atomically(path, lambda target: save_file({"hidden": hidden.cpu().contiguous()}, target))
    _tidy(path.parent)


def _tidy(folder: Path) -> None:
    newest = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in newest:
        total += file.stat().st_size
        if total > KEPT_BYTES:
            file.unlink(missing_ok=True)
