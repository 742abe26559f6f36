"""Who runs: the reference without being asked, the kernel where it can, a refusal in words where it cannot; Triton is not imported on the way in."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import rotviz.kernels.hadamard as kernels_hadamard
import rotviz.kernels.hadamard_quantize as kernels_fused
from rotviz.device import tensor_cores_missing
from rotviz.errors import BadInput, UnknownName
from rotviz.kernels.choice import interpreting, kernels_missing, launcher_missing, takes_triton
from rotviz.kernels.hadamard import hadamard
from rotviz.kernels.hadamard_quantize import hadamard_quantize
from rotviz.types import QuantSpec

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


@pytest.mark.parametrize("capability, hip, words", [((7, 5), None, "8.0 or later .* has 7.5"), ((9, 4), "6.4", "NVIDIA"), ((8, 0), None, None)])
def test_a_gpu_whose_tensor_cores_cannot_is_refused_in_words(capability, hip, words, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    found = tensor_cores_missing(torch.device("cuda"))
    assert found is None if words is None else re.search(words, found)
    assert tensor_cores_missing(torch.device("cpu")) is None


def test_a_kernel_that_does_not_fit_the_gpu_leaves_the_call_to_the_reference(monkeypatch):
    from triton.runtime.errors import OutOfResources

    import rotviz.kernels.hadamard.triton_kernel as transform
    import rotviz.kernels.hadamard_quantize.triton_kernel as fused

    def launch(*arguments):
        raise OutOfResources(131_072, 101_376, "shared memory")

    x, spec = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).requires_grad_(), QuantSpec(4, False)
    plain, codes = hadamard(x, backend="torch"), hadamard_quantize(x.detach(), spec, backend="torch")
    for module in (transform, fused):
        monkeypatch.setattr(module, "launch", launch)
    for module in (kernels_hadamard, kernels_fused):
        monkeypatch.setattr(module, "takes_triton", lambda *given: True)  # as for a tensor on a GPU
    turned, packed = hadamard(x), hadamard_quantize(x.detach(), spec)
    assert torch.equal(turned, plain) and torch.equal(packed.data, codes.data) and torch.equal(packed.step, codes.step)
    assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (turned, plain)))
    for call in (lambda: hadamard(x, backend="triton"), lambda: hadamard_quantize(x.detach(), spec, backend="triton")):
        with pytest.raises(BadInput, match="of shared memory it takes 131,072, and this GPU has 101,376"):
            call()


def test_a_machine_that_cannot_build_tritons_launcher_leaves_the_call_to_the_reference(monkeypatch):
    class Broken:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler.\nand more")

    gpu = torch.device("cuda")
    monkeypatch.setattr("rotviz.kernels.choice.tensor_cores_missing", lambda device: None)
    monkeypatch.setattr("triton.runtime.driver", Broken())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    launcher_missing.cache_clear()
    with pytest.warns(UserWarning, match=r"Failed to find C compiler.*python3-dev.*slow"):
        why = kernels_missing(gpu)
    assert "Failed to find C compiler." in why and "more" not in why
    assert kernels_missing(gpu) == why  # and not another warning
    x = SimpleNamespace(device=gpu, is_cuda=True)
    assert not takes_triton(x, "auto")
    with pytest.raises(BadInput, match="gcc python3-dev"):
        takes_triton(x, "triton")
    launcher_missing.cache_clear()
    monkeypatch.setattr("triton.runtime.driver", SimpleNamespace(active=SimpleNamespace(get_current_device=lambda: 0)))
    assert kernels_missing(gpu) is None and takes_triton(x, "auto") and takes_triton(x, "triton")
    launcher_missing.cache_clear()


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
