"""Rotations on disk: one safetensors file that this program, or another, can load.

    r1                  [D, D] float64, row vectors: x R1
    r2                  [blocks, kv heads, K, K] float64
    r3                  [K, K] float64
    r4.{width}          [F, F] float64, unless it is a Hadamard rotation, which would be gigabytes as a dense matrix:
    r4.{width}.signs    [F] of +-1, the diagonal of D in R = D (B (x) S) / sqrt(.), S Sylvester's matrix of size F / b
    r4.{width}.base     [b, b] orthogonal, B

Its header says in JSON (key "rotviz") which method made it, from what, at what cost.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.home import write_atomically
from rotviz.numerics.orthogonal import orthogonality_error
from rotviz.numerics.rotation import DenseRotation, HadamardRotation, Rotation
from rotviz.surgery.plan import RotationPlan, Sizes
from rotviz.types import Slot

TOLERANCE = 1e-6
"""Orthogonality error beyond which a matrix from a file is no rotation (it may have been kept in float32 by another program)."""


def save_plan(path: Path, plan: RotationPlan, meta: dict[str, Any]) -> None:
    """Write a plan with what should be known about it (plain JSON values), whole or not at all."""
    tensors: dict[str, Tensor] = {}
    if plan.r1 is not None:
        tensors["r1"] = plan.r1.dense()
    if plan.r2:
        tensors["r2"] = torch.stack([torch.stack([rotation.dense() for rotation in heads]) for heads in plan.r2])
    if plan.r3 is not None:
        tensors["r3"] = plan.r3.dense()
    for width, rotation in plan.r4.items():
        tensors |= _online(f"r4.{width}", rotation)
    header = {"rotviz": json.dumps(meta)}
    write_atomically(path, lambda target: save_file({k: v.contiguous() for k, v in tensors.items()}, target, metadata=header))


def load_plan(path: Path) -> tuple[RotationPlan, dict[str, Any]]:
    """A plan and its header.

    Raises:
        BadInput: no such file, not a file of rotations, or a matrix in it is not orthogonal.
    """
    if not path.is_file():
        raise BadInput(f"no saved rotation {path}; give the path of a .safetensors file that a run wrote")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safe_open handle is no mapping
            meta = json.loads((file.metadata() or {}).get("rotviz", "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} cannot be read as saved rotations ({error}); give a .safetensors file that a run wrote") from error
    if not tensors or not all(name.split(".")[0] in ("r1", "r2", "r3", "r4") for name in tensors):
        raise BadInput(f"{path} holds no rotations (tensors r1, r2, r3, r4); give a .safetensors file that a run wrote")
    words = str(meta.get("method", "saved"))
    return RotationPlan(
        r1=_dense(tensors["r1"], words, path) if "r1" in tensors else None,
        r2=tuple(tuple(_dense(matrix, words, path) for matrix in heads) for heads in tensors.get("r2", ())),
        r3=_dense(tensors["r3"], words, path) if "r3" in tensors else None,
        r4={width: _loaded_online(tensors, width, words, path) for width in _widths(tensors)},
    ), meta


def check_plan(plan: RotationPlan, sizes: Sizes, path: Path) -> None:
    """Raises BadInput where a loaded plan does not fit a model, with both sizes."""
    found = {
        "R1": (plan.r1.size, sizes.width) if plan.r1 is not None else None,
        "R2": ((len(plan.r2), len(plan.r2[0]), plan.r2[0][0].size), (sizes.blocks, sizes.kv_heads, sizes.head_width)) if plan.r2 else None,
        "R3": (plan.r3.size, sizes.head_width) if plan.r3 is not None else None,
        "R4": (tuple(sorted(plan.r4)), tuple(sorted(sizes.down_widths))) if plan.r4 else None,
    }
    for slot, pair in found.items():
        if pair and pair[0] != pair[1]:
            raise BadInput(f"{path} is for another model: its {slot} has size {pair[0]}, this model needs {pair[1]}")


def only(plan: RotationPlan, slots: tuple[Slot, ...]) -> RotationPlan:
    """The plan with the other slots left out."""
    return replace(plan, r1=plan.r1 if Slot.R1 in slots else None, r2=plan.r2 if Slot.R2 in slots else (),
                   r3=plan.r3 if Slot.R3 in slots else None, r4=plan.r4 if Slot.R4 in slots else {})


def _online(name: str, rotation: Rotation) -> dict[str, Tensor]:
    if not isinstance(rotation, HadamardRotation):
        return {name: rotation.dense()}
    signs = rotation.signs if rotation.signs is not None else torch.ones(rotation.size, dtype=torch.float64)
    return {f"{name}.signs": signs, f"{name}.base": rotation.base_orthogonal}


def _widths(tensors: dict[str, Tensor]) -> list[int]:
    return sorted({int(name.split(".")[1]) for name in tensors if name.startswith("r4.")})


def _loaded_online(tensors: dict[str, Tensor], width: int, words: str, path: Path) -> Rotation:
    name = f"r4.{width}"
    if name in tensors:
        return _dense(tensors[name], words, path)
    base = tensors[f"{name}.base"]
    _require_orthogonal(base, path)
    return HadamardRotation(width, tensors[f"{name}.signs"], base=base)


def _dense(matrix: Tensor, words: str, path: Path) -> DenseRotation:
    _require_orthogonal(matrix, path)
    return DenseRotation(matrix, name=words)


def _require_orthogonal(matrix: Tensor, path: Path) -> None:
    error = orthogonality_error(matrix)
    if not error < TOLERANCE:
        raise BadInput(f"a matrix in {path} is not orthogonal (|R^T R - I| = {error:.1e}); it cannot be used as a rotation")
