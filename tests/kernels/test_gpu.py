"""The kernels on a real GPU, at the sizes of real models; what the other files check at small sizes they check there too, on the same device."""

from functools import partial

import pytest
import torch
from judging import assert_at_most_twice_as_wrong, draw, signs_for

from rotviz.device import resolve_device
from rotviz.errors import BadInput
from rotviz.kernels.bench import Ceilings, Row, measure
from rotviz.kernels.choice import kernels_missing
from rotviz.kernels.hadamard import hadamard
from rotviz.kernels.hadamard_quantize import hadamard_quantize
from rotviz.kernels.integer_matmul import integer_matmul
from rotviz.kernels.packing import pack, unpack
from rotviz.kernels.quantize import dequantize, fake_quantize, quantize
from rotviz.kernels.scores import score
from rotviz.kernels.statistics import site_statistics
from rotviz.kernels.weight_only_matmul import weight_only_matmul
from rotviz.numerics.rotation import HadamardRotation
from rotviz.types import Granularity, QuantSpec

MISSING = kernels_missing(resolve_device("auto"))
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=f"no Triton kernel runs here: {MISSING}; they run interpreted instead")]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def by_kernel(operation, is_wide):
    """The kernel's result; for the widest rows, on a card of 24 GB, what "auto" then gives. Anything else that does not fit is an error."""
    try:
        return operation(backend="triton")
    except BadInput as found:
        if not is_wide or "of shared memory it takes" not in str(found) or "this GPU has 101,376" not in str(found):
            raise
    return operation(backend="auto")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [64, 128, 576, 1536, 4096, 8192, 9216, 11008, 14336, 18944, 22016, 27648, 28672])
def test_transform(n, dtype, device):
    x, signs = draw(1001, n, dtype=dtype, device=device), signs_for(n, device)
    rotation, is_wide = HadamardRotation(n, signs.double()), dtype == torch.float32 and n >= 18944
    for inverse in (False, True):
        turn = rotation.apply_inverse if inverse else rotation.apply
        ours = by_kernel(partial(hadamard, x, signs, inverse=inverse), is_wide)
        assert_at_most_twice_as_wrong(ours, turn(x), turn(x.double()))
    x.requires_grad_()
    upstream = draw(1001, n, dtype=dtype, device=device, seed=1)
    (gradient,) = torch.autograd.grad(by_kernel(partial(hadamard, x, signs), is_wide), x, upstream)
    assert_at_most_twice_as_wrong(gradient, rotation.apply_inverse(upstream), rotation.apply_inverse(upstream.double()))


@pytest.mark.parametrize("bits, symmetric", [(4, True), (4, False), (8, True), (8, False)])
@pytest.mark.parametrize("n", [128, 1536, 11008, 28672])
def test_fused(n, bits, symmetric, device):
    x, spec = draw(513, n, dtype=torch.bfloat16, device=device), QuantSpec(bits, symmetric, clip=0.9)
    turned = HadamardRotation(n).apply(x.double())
    ours = by_kernel(partial(hadamard_quantize, x, spec), is_wide=n >= 28672)
    wrong, allowed = (dequantize(codes, backend="torch").double() - turned for codes in (ours, hadamard_quantize(x, spec, backend="torch")))
    assert wrong.norm() <= 1.01 * allowed.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", [QuantSpec(4, False), QuantSpec(8, True), QuantSpec(4, False, Granularity.GROUP, 128), QuantSpec(4, True, clip=0.9),
                                  QuantSpec(4, False, clip=0.9), QuantSpec(4, False, Granularity.GROUP, 16, number_format="int_min")], ids=str)
def test_rounding(spec, dtype, device):
    x = draw(1001, 4096, dtype=dtype, device=device)
    ours, plain = quantize(x, spec), quantize(x, spec, backend="torch")
    assert torch.equal(ours.data, plain.data) and torch.equal(ours.step, plain.step)
    assert torch.equal(dequantize(ours), dequantize(plain, backend="torch"))
    rounded = fake_quantize(x, spec, backend="triton")
    assert torch.equal(rounded, fake_quantize(x, spec, backend="torch")) and torch.equal(rounded.cpu(), fake_quantize(x.cpu(), spec))


def test_packing(device):
    codes = torch.randint(-8, 8, (1001, 4096), dtype=torch.int8, device=device)
    assert torch.equal(unpack(pack(codes), signed=True), codes)


@pytest.mark.parametrize("rows", [1, 16, 17, 1000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products(rows, dtype, device):
    x, weight = draw(rows, 4096, dtype=dtype, device=device), draw(14336, 4096, dtype=dtype, device=device, seed=1)
    packed = quantize(weight, QuantSpec(4, False, Granularity.GROUP, 128))
    truth = weight_only_matmul(x.double(), packed, backend="torch")
    assert_at_most_twice_as_wrong(weight_only_matmul(x, packed), x @ dequantize(packed).T, truth)
    for bits in (4, 8):
        codes, whole = quantize(x, QuantSpec(bits, False)), quantize(weight, QuantSpec(bits, True, Granularity.CHANNEL))
        assert torch.equal(integer_matmul(codes, whole), integer_matmul(codes, whole, backend="torch"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores(dtype, device):
    p = draw(1001, 49_152, dtype=dtype, device=device)
    q, targets = (p.float() + draw(1001, 49_152, device=device, seed=1) / 8).to(dtype), torch.arange(1001, device=device)
    ours, plain, truth = score(p, q, targets, backend="triton"), score(p, q, targets, backend="torch"), score(p.double(), q.double(), targets)
    for name in ("reference", "quantized", "kl"):
        wrong, allowed = (getattr(found, name) - getattr(truth, name) for found in (ours, plain))
        assert wrong.norm() <= 2 * allowed.norm() + 2.0**-24 * getattr(truth, name).norm()
    assert torch.equal(ours.same_top, truth.same_top)


def test_statistics(device):
    x = draw(4097, 4096, dtype=torch.bfloat16, device=device)
    x[0, 7], x[-1, 50] = 2e4, -1.3e4
    ours, plain = site_statistics(x), site_statistics(x, backend="torch")
    assert torch.equal(ours.counts, plain.counts) and torch.equal(ours.peaks, plain.peaks) and torch.equal(ours.peak_tokens, plain.peak_tokens)
    assert ours.moments.kurtosis == pytest.approx(plain.moments.kurtosis, rel=16 * 2.0**-23)


def test_the_benchmark_measures_every_kernel(device):
    ceilings, *rows = measure(device, quick=True, repeats=2)
    assert isinstance(ceilings, Ceilings) and all(isinstance(r, Row) and r.seconds["triton"] for r in rows)
