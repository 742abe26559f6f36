"""How fast the kernels are on this machine, against its own ceilings and against what people use.

Two ceilings are measured first: the rate at which a large tensor is copied (read and written bytes both count) and the rate of a large matrix
product. A kernel that moves B bytes and does P multiply-adds can take no less than

    floor = max(B / copy rate, 2 P / matrix rate)            share = floor / median time

B counts what must be read and written once, P what the mathematics needs (butterflies for the transform, not the padded products that the
kernel does instead), so a share of 1 is out of reach where the kernel does more. Integer products are held against the same matrix rate, which
a GPU's integer units can pass. Times are medians; on a GPU the cache is cold (rotviz.device.timed).

Without a GPU the references are timed on the CPU and the kernels are not measured: None, never a guess.
"""

import importlib
import importlib.util
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from rotviz.device import describe, timed
from rotviz.errors import BadInput
from rotviz.kernels.cost import rotation_operations
from rotviz.kernels.hadamard import hadamard
from rotviz.kernels.hadamard_quantize import hadamard_quantize
from rotviz.kernels.integer_matmul import channel_sums, integer_matmul
from rotviz.kernels.packed import Packed
from rotviz.kernels.quantize import dequantize, fake_quantize, quantize
from rotviz.kernels.scores import score
from rotviz.kernels.statistics import site_statistics
from rotviz.kernels.weight_only_matmul import weight_only_matmul
from rotviz.types import Granularity, QuantSpec

HADAMARD_WIDTHS = (64, 128, 576, 1536, 4096, 8192, 11008, 14336, 28672)
PRODUCTS = ((4096, 4096), (14336, 4096))
"""Outputs and inputs of the matrix products: the query and the up projection of an 8B model."""
A4, A8 = QuantSpec(4, False), QuantSpec(8, True)
W4 = QuantSpec(4, False, Granularity.GROUP, 128)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this machine can do: bytes a second of a copy, operations a second of a matrix product in the dtype of the benchmark."""

    device: str
    dtype: str
    copy_bytes: float
    matrix_operations: float


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one size. `run` takes a backend; `others` are what it is compared with, besides the reference."""

    kernel: str
    size: str
    bytes: int
    multiply_adds: int
    run: Callable[[str], object]
    others: dict[str, Callable[[], object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured. seconds: median by implementation, None = not measured; share: of the ceiling, by the kernel (None likewise)."""

    kernel: str
    size: str
    dtype: str
    bytes: int
    multiply_adds: int
    seconds: dict[str, float | None]
    floor: float
    share: float | None
    torch_share: float


def measure(device: torch.device, *, quick: bool = False, repeats: int = 20) -> Iterator[Ceilings | Row]:
    """The ceilings, then a row for each kernel and size, as they are measured.

    Args:
        device: where.
        quick: small sizes: on a CPU always, since the references take long there.
        repeats: runs that the median is of.
    """
    small = quick or device.type != "cuda"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    ceilings = measure_ceilings(device, dtype, small, repeats)
    yield ceilings
    for case in cases(device, dtype, small):
        yield measure_case(case, ceilings, device, repeats)


def measure_ceilings(device: torch.device, dtype: torch.dtype, small: bool, repeats: int) -> Ceilings:
    """Copy and multiply something large."""
    count = 1 << 24 if small else 1 << 28
    source = torch.zeros(count, dtype=dtype, device=device)
    target = torch.empty_like(source)
    copied = statistics.median(timed(lambda: target.copy_(source), device, repeats))
    return Ceilings(describe(device), _name(dtype), 2 * count * dtype.itemsize / copied, matrix_rate(device, dtype, small, repeats))


def matrix_rate(device: torch.device, dtype: torch.dtype, small: bool, repeats: int) -> float:
    """Operations a second of a large product, random numbers times random numbers: zeros would be quicker."""
    side = 1024 if small else 8192
    square = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / statistics.median(timed(lambda: square @ square, device, repeats))


def measure_case(case: Case, ceilings: Ceilings, device: torch.device, repeats: int) -> Row:
    """Time the reference, the kernel where it can run, and the others."""
    runs: dict[str, Callable[[], object] | None] = {
        "torch": lambda: case.run("torch"),
        "triton": kernel_of(case, device), **case.others}
    seconds = {name: None if run is None else statistics.median(timed(run, device, repeats)) for name, run in runs.items()}
    floor = max(case.bytes / ceilings.copy_bytes, 2 * case.multiply_adds / ceilings.matrix_operations)
    share = floor / seconds["triton"] if seconds["triton"] else None
    return Row(case.kernel, case.size, ceilings.dtype, case.bytes, case.multiply_adds, seconds, floor, share, floor / seconds["torch"])


def kernel_of(case: Case, device: torch.device) -> Callable[[], object] | None:
    """The kernel's run, or None where this machine cannot run it or its GPU has too little room for the size."""
    if device.type != "cuda":
        return None
    try:
        case.run("triton")
    except BadInput:
        return None
    return lambda: case.run("triton")


def cases(device: torch.device, dtype: torch.dtype, small: bool) -> Iterator[Case]:
    """Every kernel at its sizes; a case's tensors live as long as the case."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    numbers = 1 << 18 if small else 1 << 26
    for n in HADAMARD_WIDTHS[:5] if small else HADAMARD_WIDTHS:
        yield from _transforms(draw(max(1, numbers // n), n))
    yield from _roundings(draw(numbers // 4096, 4096))
    for n, d in [(1024, 1024)] if small else PRODUCTS:
        weight = draw(n, d)
        for rows in (1, 16, 128) if small else (1, 16, 2048):
            yield from _products(draw(rows, d), weight)
    x = draw(numbers // 4096, 4096)
    yield from _scores(draw(numbers // 49_152, 49_152))
    yield Case("statistics", _size(x), _bytes(x), 4 * x.numel(), lambda backend: site_statistics(x, backend=backend))


def _transforms(x: Tensor) -> Iterator[Case]:
    rows, n = x.shape
    operations = rows * rotation_operations(n)
    yield Case("hadamard", _size(x), 2 * _bytes(x), operations, lambda backend: hadamard(x, backend=backend), _peers(x))
    out = hadamard_quantize(x, A4).nbytes
    yield Case("hadamard + int4", _size(x), _bytes(x) + out, operations, lambda backend: hadamard_quantize(x, A4, backend=backend))


def _roundings(x: Tensor) -> Iterator[Case]:
    for words, spec in (("int4 a token", A4), ("int8 a token", A8), ("int4 in groups of 128", W4)):
        packed = quantize(x, spec)
        moved = _bytes(x) + packed.nbytes
        yield Case(f"quantize {words}", _size(x), moved, 0, lambda backend, spec=spec: quantize(x, spec, backend=backend))
        yield Case(f"fake-quantize {words}", _size(x), 2 * _bytes(x), 0, lambda backend, spec=spec: fake_quantize(x, spec, backend=backend))
        yield Case(f"dequantize {words}", _size(x), moved, 0, lambda backend, packed=packed: dequantize(packed, backend=backend))


def _products(x: Tensor, weight: Tensor) -> Iterator[Case]:
    (rows, d), n = x.shape, weight.shape[0]
    size, operations, out = f"{rows} x {d} -> {n}", rows * n * d, rows * n * x.element_size()
    peers = {f"{_name(x.dtype)} product": lambda: x @ weight.T}
    grouped = quantize(weight, W4)
    yield Case("int4 weights", size, _bytes(x) + grouped.nbytes + out, operations,
               lambda backend: weight_only_matmul(x, grouped, backend=backend), peers)
    for spec in (A4, A8):
        codes, packed = quantize(x, spec), quantize(weight, QuantSpec(spec.bits, True, Granularity.CHANNEL))
        yield Case(f"int{spec.bits} x int{spec.bits}", size, codes.nbytes + packed.nbytes + out, operations, _integer(codes, packed), peers)


def _scores(logits: Tensor) -> Iterator[Case]:
    """Of two models with the vocabulary of SmolLM2, beside the functions that people use for it."""
    others, targets = logits.roll(1, 0), logits.argmax(-1)

    def plain() -> object:
        p, q = logits.float(), others.float()
        divergence = functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)
        return functional.cross_entropy(p, targets, reduction="none"), functional.cross_entropy(q, targets, reduction="none"), divergence

    yield Case("scores", _size(logits), 2 * _bytes(logits), 4 * logits.numel(), lambda backend: score(logits, others, targets, backend=backend),
               {"cross_entropy, kl_div": plain})


def _integer(x: Packed, weight: Packed) -> Callable[[str], object]:
    sums = channel_sums(weight)
    return lambda backend: integer_matmul(x, weight, sums, backend=backend)


def _peers(x: Tensor) -> dict[str, Callable[[], object]]:
    """fast_hadamard_transform, where it is installed and the width is a power of two: on others it pads and is no rotation."""
    n = x.shape[-1]
    if not x.is_cuda or n & (n - 1) or importlib.util.find_spec("fast_hadamard_transform") is None:
        return {}
    transform = importlib.import_module("fast_hadamard_transform").hadamard_transform
    return {"fast_hadamard_transform": lambda: transform(x, n**-0.5)}


def _size(x: Tensor) -> str:
    return " x ".join(str(s) for s in x.shape)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
