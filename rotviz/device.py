"""The only place that asks what hardware there is, and speaks to CUDA itself. Functions, no constants: nothing is decided at import."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rotviz.errors import BadInput

DTYPES = ("float32", "float64", "bfloat16", "float16")


def resolve_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda".

    Raises:
        BadInput: cuda was asked for and there is none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if name == "cuda":
        raise BadInput("device = 'cuda', but this machine shows no CUDA device to torch; use device = 'cpu' or 'auto'")
    raise BadInput(f"device = {name!r} is unknown; use auto, cpu or cuda")


def device_mark(name: str) -> str:
    """The kind of device that a recipe's results are of, for cache keys: what "auto" stands for here, else the name itself."""
    return resolve_device(name).type if name == "auto" else name


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of that name."""
    if name not in DTYPES:
        raise BadInput(f"dtype = {name!r} is unknown; use one of {', '.join(DTYPES)}")
    return getattr(torch, name)


def describe(device: torch.device) -> str:
    """What the device is, in words, for the record of a run."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> float:
    """The most memory held since the last reset: of the GPU's allocator on CUDA, else of this process (resident), in MB of 10^6 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of the peak. Where a process cannot reset its own (other than Linux), the peak is that of its whole life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory_bytes(device: torch.device) -> int | None:
    """All memory of a GPU; None for a CPU, whose caches matter more."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def give_memory_back(device: torch.device) -> None:
    """Let a GPU's allocator return what it holds and nobody uses, so that a smaller batch finds room in one piece; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was told; nothing on a CPU, which is done by then."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def on_device_of(x: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """A block in which kernels are launched on the GPU that holds x; nothing for a tensor on the CPU."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def multiprocessors(device: torch.device) -> int:
    """How many blocks of work the device carries out at once: a GPU's multiprocessors; 1 for a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def tensor_cores_missing(device: torch.device) -> str | None:
    """Why a GPU's tensor cores cannot do what the Triton kernels ask of them, or None; None too where there is no GPU.

    They multiply bfloat16 and 8-bit integers, and read memory asynchronously: NVIDIA's from compute capability 8.0 (Ampere) on.
    """
    if device.type != "cuda":
        return None
    if torch.version.hip is not None:
        return "it is written for NVIDIA's GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"it needs compute capability 8.0 or later (Ampere), and {torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
    return None


def cuda_graph(step: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Record a step as a CUDA graph, after one run outside it. -> its output, and what computes that anew, in place.

    Raises:
        RuntimeError: the step does what cannot be recorded, such as waiting for a number. That is looked for in the run outside: a recording that
            fails half way leaves torch's generators in a state in which nothing can be drawn.
    """
    beside, main = torch.cuda.Stream(), torch.cuda.current_stream()
    beside.wait_stream(main)
    waits = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        with torch.cuda.stream(beside):
            step()
    finally:
        torch.cuda.set_sync_debug_mode(waits)
    main.wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            output = step()
    finally:
        torch.cuda.set_stream(main)
    return output, graph.replay


def timed(run: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs, after one that is not counted.

    On a GPU by its own events, and with its second-level cache overwritten before each run, so that inputs come from memory.
    """
    run()
    if device.type != "cuda":
        return [_clocked(run) for _ in range(repeats)]
    sweep = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    with torch.cuda.device(device):
        for begin, end in marks:
            sweep.zero_()
            begin.record()
            run()
            end.record()
    torch.cuda.synchronize(device)
    return [begin.elapsed_time(end) / 1e3 for begin, end in marks]


def _clocked(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
