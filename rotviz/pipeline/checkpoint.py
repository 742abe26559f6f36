"""Where a walk stands, on disk: so that a killed run goes on at the block after the last one it finished.

One safetensors file holds both streams of hidden states [N, L, D] (of the float model's perhaps the first batch alone, see reference.py), those of
the calibration windows where a method learns from them, and, in its header, the next block, the errors so far and the fingerprint of the recipe. It
replaces its predecessor in one step.
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
STREAMS = ("reference", "quantized", "calibration", "float_calibration", "massive")
ABLATED = ("only", "all_but")
"""An ablation's streams: a list of tensors, stored as only.0, only.1 (as `only` alone by an older version)."""


@dataclass
class WalkState:
    """Both streams before block `block`, and what was measured up to there.

    calibration, float_calibration: the calibration windows in the quantized model, and in the float model in the same basis.
    massive: uint8 [N, L], at the input of how many blocks so far each token of `reference` was massive.
    learned: by block what its weight quantizer reports: notes and metrics.
    units, only, all_but: with an ablation (ablation.py) its units so far and their streams, for each block [U, N, L, D].
    """

    block: int
    reference: Tensor
    quantized: Tensor
    errors: list[dict[str, Any]] = field(default_factory=list)
    weight_errors: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    learned: list[dict[str, Any]] = field(default_factory=list)
    calibration: Tensor | None = None
    float_calibration: Tensor | None = None
    massive: Tensor | None = None
    units: list[dict[str, Any]] = field(default_factory=list)
    only: list[Tensor] = field(default_factory=list)
    all_but: list[Tensor] = field(default_factory=list)

    def streams(self) -> dict[str, Tensor]:
        """All tensors by name."""
        named = {name: getattr(self, name) for name in STREAMS}
        named |= {f"{kind}.{i}": part for kind in ABLATED for i, part in enumerate(getattr(self, kind))}
        return {name: stream for name, stream in named.items() if stream is not None}


def save_state(folder: Path, fingerprint: str, state: WalkState) -> None:
    """Write a state, whole or not at all.

    Raises:
        OutOfRoom: the disk is full; the state before is still there.
    """
    header = {"fingerprint": fingerprint, "state": json.dumps(
        {"block": state.block, "errors": state.errors, "weight_errors": state.weight_errors, "seconds": state.seconds,
         "learned": state.learned, "units": state.units})}
    tensors = {name: stream.contiguous().cpu() for name, stream in state.streams().items()}
    write_atomically(folder / FILE, lambda target: save_file(tensors, target, metadata=header))


def _by_field(streams: dict[str, Tensor]) -> dict[str, Any]:
    """Stored streams by the state's fields."""
    found: dict[str, Any] = {name: stream for name, stream in streams.items() if name in STREAMS}
    for kind in ABLATED:
        own = {int(name.partition(".")[2] or 0): stream for name, stream in streams.items() if name.partition(".")[0] == kind}
        found[kind] = [own[i] for i in sorted(own)]
    return found


def load_state(folder: Path, fingerprint: str) -> WalkState | None:
    """The state of this recipe, or None: no file, another recipe's, not readable, or of a version that did not count massive tokens."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            if header.get("fingerprint") != fingerprint:
                return None
            # cloned: a mapped file is not aligned as torch aligns, and products of numbers that lie elsewhere may differ in the last bit
            streams = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
            state = WalkState(**_by_field(streams), **json.loads(header["state"]))
            return None if state.block > 0 and state.massive is None else state
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
        return None
