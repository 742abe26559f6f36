"""Where a walk stands, on disk: so that a killed run goes on at the block after the last one it finished.

One safetensors file holds both streams of hidden states [N, L, D] (of the float model's perhaps the first batch alone, see reference.py) and, in
its header, the next block, the errors so far and the fingerprint of the recipe. It replaces its predecessor in one step.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rotviz.home import write_atomically

FILE = "walk.safetensors"


@dataclass
class WalkState:
    """Both streams before block `block`, and what was measured up to there."""

    block: int
    reference: Tensor
    quantized: Tensor
    errors: list[dict[str, Any]] = field(default_factory=list)
    weight_errors: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def save_state(folder: Path, fingerprint: str, state: WalkState) -> None:
    """Write a state, whole or not at all.

    Raises:
        OutOfRoom: the disk is full; the state before is still there.
    """
    header = {"fingerprint": fingerprint, "state": json.dumps(
        {"block": state.block, "errors": state.errors, "weight_errors": state.weight_errors, "seconds": state.seconds})}
    tensors = {"reference": state.reference.contiguous().cpu(), "quantized": state.quantized.contiguous().cpu()}
    write_atomically(folder / FILE, lambda target: save_file(tensors, target, metadata=header))


def load_state(folder: Path, fingerprint: str) -> WalkState | None:
    """The state of this recipe, or None: no file, another recipe's, or not readable."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            if header.get("fingerprint") != fingerprint:
                return None
            return WalkState(reference=file.get_tensor("reference"), quantized=file.get_tensor("quantized"), **json.loads(header["state"]))
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError):
        return None
