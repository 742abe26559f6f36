"""Who runs: the reference without being asked, the kernel where it can, a refusal in words where it cannot; Triton is not imported on the way in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rotviz.errors import BadInput, UnknownName
from rotviz.kernels.choice import interpreting, takes_triton

ROOT = Path(__file__).parents[2]


def test_on_the_cpu_the_reference_runs_unless_the_kernel_is_asked_for(monkeypatch):
    x = torch.ones(1)
    assert not takes_triton(x, "auto") and not takes_triton(x, "torch")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert interpreting() and takes_triton(x, "triton") and not takes_triton(x, "auto")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(BadInput, match="TRITON_INTERPRET=1"):
        takes_triton(x, "triton")
    with pytest.raises(BadInput, match="not a power"):
        takes_triton(x, "triton", "not a power of two")
    with pytest.raises(UnknownName, match="did you mean 'triton'"):
        takes_triton(x, "tritn")


def test_nothing_imports_triton_on_the_way_in():
    script = """
import sys, importlib, pkgutil
import rotviz, rotviz.kernels
for found in pkgutil.walk_packages(rotviz.kernels.__path__, "rotviz.kernels."):
    if not found.name.endswith(("triton_kernel", ".tiles")):
        importlib.import_module(found.name)
assert "triton" not in sys.modules
sys.modules["triton"] = None          # as where it is not installed
import torch
from rotviz.kernels.hadamard import hadamard
hadamard(torch.ones(1, 12))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
