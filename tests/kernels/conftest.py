"""Kernels under test: on the GPU where there is one, else interpreted on the CPU; and memory that nobody has written is NaN.

Triton decides at import whether its functions are interpreted, so without a GPU it is imported here, with TRITON_INTERPRET set for the
moment of the import and for the tests of this folder, and for nothing else in the process.
"""

import importlib
import os
from collections.abc import Iterator

import pytest
import torch

from rotviz.device import resolve_device

OPERATIONS = ("hadamard", "hadamard_quantize", "quantize", "packing", "weight_only_matmul", "integer_matmul", "scores", "statistics")
INTERPRETED = resolve_device("auto").type == "cpu"

if INTERPRETED:
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    for operation in OPERATIONS:
        importlib.import_module(f"rotviz.kernels.{operation}.triton_kernel")
    if before is None:
        del os.environ["TRITON_INTERPRET"]


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run."""
    return resolve_device("auto")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is on where there is no GPU."""
    if INTERPRETED:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN (integers: the largest there is), so that a number a kernel forgot to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(4).isnan().all() and (torch.empty(4, dtype=torch.int8) == 127).all()
    yield
    torch.use_deterministic_algorithms(False)
