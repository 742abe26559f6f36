"""Which of two twins runs: the reference in torch, or the Triton kernel.

    auto     the kernel for a tensor on a GPU that can run it, where Triton is installed and works and the kernel covers the shape; otherwise
             the reference
    torch    the reference
    triton   the kernel; a refusal in words where it cannot run. On the CPU it runs only under Triton's interpreter (TRITON_INTERPRET=1, set
             before Triton is imported): slow, and there to check the kernel where no GPU is at hand

Nothing is decided at import, and Triton is imported only when a kernel is about to be launched.
"""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from rotviz.device import tensor_cores_missing
from rotviz.errors import BadInput, not_among

BACKENDS = ("auto", "torch", "triton")


def triton_installed() -> bool:
    """Whether Triton could be imported; it is not imported to find out."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether Triton has been asked to interpret its kernels on the CPU instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def kernels_missing(device: torch.device) -> str | None:
    """Why no Triton kernel runs on a device without being asked, or None."""
    if device.type != "cuda":
        return "they take a GPU, and this is a CPU"
    if not triton_installed():
        return "Triton is not installed"
    return tensor_cores_missing(device) or (None if interpreting() else launcher_missing())


@functools.cache
def launcher_missing() -> str | None:
    """Why Triton cannot launch anything on this machine's GPU, or None; told once as a warning too, for "auto" would be slow without a word.

    Triton compiles its own launcher, once, with the machine's C compiler and Python's header files, which many machines lack. Whatever goes
    wrong there, and it raises errors of many kinds, leaves the references.
    """
    try:
        from triton.runtime import driver

        driver.active.get_current_device()
    except Exception as found:
        said = (str(found).splitlines() or [type(found).__name__])[0][:160]
        why = f"Triton does not start here ({said}); what it usually lacks is a C compiler or Python's header files (on Debian: gcc python3-dev)"
        warnings.warn(f"{why}. The references in torch run instead, and are slow", stacklevel=2)
        return why
    return None


def takes_triton(x: Tensor, backend: str, obstacle: str | None = None) -> bool:
    """Whether the kernel runs for x.

    Args:
        x: the tensor that decides by its device.
        backend: one of BACKENDS.
        obstacle: why the kernel does not cover this call, or None; then "auto" takes the reference.

    Raises:
        BadInput: "triton" was asked for and cannot run, or the backend has no such name.
    """
    if backend not in BACKENDS:
        raise not_among("backend", backend, BACKENDS)
    if backend == "triton":
        _require(x, obstacle or (kernels_missing(x.device) if x.is_cuda else None))
        return True
    return backend == "auto" and x.is_cuda and (obstacle or kernels_missing(x.device)) is None


def fits(backend: str, launch: Callable[..., None], *arguments: object) -> bool:
    """Launch a kernel whose tiles may be too large for the GPU at hand; False if they are and "auto" may take the reference.

    How much shared memory a kernel needs is known once it is compiled, and how much there is differs from GPU to GPU: 99 KB a block on a
    GeForce RTX 3090 or 4090, 163 KB on an A100, 227 KB on an H100.

    Raises:
        BadInput: the backend is triton and the kernel does not fit.
    """
    from triton.runtime.errors import OutOfResources

    try:
        launch(*arguments)
    except OutOfResources as found:
        if backend == "triton":
            raise BadInput(f"the Triton kernel does not cover this call: of {found.name} it takes {found.required:,}, and this GPU has "
                           f"{found.limit:,}; use backend = 'auto' or 'torch'") from None
        return False
    return True


def _require(x: Tensor, obstacle: str | None) -> None:
    if obstacle is not None:
        raise BadInput(f"the Triton kernel does not cover this call: {obstacle}; use backend = 'auto' or 'torch'")
    if not triton_installed():
        raise BadInput("backend = 'triton', but Triton is not installed here; use backend = 'auto' or 'torch'")
    if not x.is_cuda and not interpreting():
        raise BadInput(f"backend = 'triton', but the tensor is on {x.device}; move it to a GPU, or set TRITON_INTERPRET=1 to have the kernel "
                       "interpreted")
