"""The Hadamard kernel: what HadamardRotation does, in every dtype, at awkward sizes, forwards and backwards, and nowhere outside its output."""

import pytest
import torch
from judging import assert_at_most_twice_as_wrong, draw, signs_for

from rotviz.errors import BadInput
from rotviz.kernels.hadamard import hadamard
from rotviz.kernels.hadamard.plan import LARGEST_TILE, SMALLEST, plan
from rotviz.numerics.hadamard import hadamard_base
from rotviz.numerics.rotation import HadamardRotation

HALF = (torch.bfloat16, torch.float16)
SIZES = [(64, 3), (576, 17), (1536, 1), (12, 3), (20, 1), (48, 17), (128, 3), (344, 3), (420, 1), (896, 3), (1152, 3), (1376, 5), (3072, 3),
         (6912, 1)]
MODEL_WIDTHS = [64, 96, 128, 256, 576, 768, 896, 960, 1152, 1536, 1920, 2048, 2304, 2560, 2816, 3072, 3200, 3584, 4096, 4864, 4992, 5120, 5376, 5632,
                5760, 6144, 6400, 6912, 8192, 8640, 8960, 9216, 9728, 10240, 11008, 11264, 12288, 12800, 13440, 13824, 14336, 14784, 15360, 16384,
                17408, 17920, 18944, 19456, 20480, 21504, 22016, 25600, 27648, 28672]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("n, rows", SIZES)
def test_it_is_the_rotation(n, rows, dtype, device):
    x, signs = draw(rows, n, dtype=dtype, device=device), signs_for(n, device)
    rotation = HadamardRotation(n, signs.double())
    for inverse in (False, True):
        turn = rotation.apply_inverse if inverse else rotation.apply
        ours = hadamard(x, signs, inverse=inverse, backend="triton")
        assert_at_most_twice_as_wrong(ours, turn(x), turn(x.double()))
    without = HadamardRotation(n)
    assert_at_most_twice_as_wrong(hadamard(x, backend="triton"), without.apply(x), without.apply(x.double()))


@pytest.mark.parametrize("n", [11008, 14336])
def test_long_rows(n, device):
    x, rotation = draw(1, n, dtype=torch.bfloat16, device=device), HadamardRotation(n)
    assert_at_most_twice_as_wrong(hadamard(x, backend="triton"), rotation.apply(x), rotation.apply(x.double()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [576, 1376])
def test_gradients_go_back_through_the_inverse(n, dtype, device):
    signs, rotation = signs_for(n, device), HadamardRotation(n, signs_for(n).double())
    upstream = draw(3, n, dtype=dtype, device=device, seed=1)
    for inverse in (False, True):
        x = draw(3, n, dtype=dtype, device=device).requires_grad_()
        (ours,) = torch.autograd.grad(hadamard(x, signs, inverse=inverse, backend="triton"), x, upstream)
        (plain,) = torch.autograd.grad(hadamard(x, signs, inverse=inverse, backend="torch"), x, upstream)
        back = rotation.apply if inverse else rotation.apply_inverse
        assert_at_most_twice_as_wrong(ours, plain, back(upstream.double()))


def test_it_can_be_differentiated_twice(device):
    x = draw(2, 64, device=device).requires_grad_()
    (first,) = torch.autograd.grad(hadamard(x, backend="triton").pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    y = draw(2, 64, device=device).double().requires_grad_()
    (expected,) = torch.autograd.grad(hadamard(y).pow(3).sum(), y, create_graph=True)
    (expected,) = torch.autograd.grad(expected.sum(), y)
    torch.testing.assert_close(second.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n, rows", [(64, 3), (576, 17), (1376, 3)])
def test_nothing_is_written_outside(n, rows, device):
    from rotviz.kernels.hadamard.triton_kernel import launch

    room = torch.full((rows + 40, n), torch.nan, device=device)
    launch(draw(rows, n, device=device), room[20 : 20 + rows], None, False)
    assert room[20 : 20 + rows].isfinite().all() and room[:20].isnan().all() and room[20 + rows :].isnan().all()


def test_a_spike_becomes_levels_of_one_size(device):
    x = torch.zeros(1, 576, device=device)
    x[0, 100] = 24.0  # sqrt(576)
    assert torch.equal(hadamard(x, backend="triton").abs(), torch.ones_like(x))


def test_outliers_of_float16_do_not_overflow_on_the_way(device):
    x = torch.full((1, 64), 6000.0, dtype=torch.float16, device=device)
    x[0, ::2] = -6000.0
    x[0, :8] = 60000.0
    rotation = HadamardRotation(64)
    assert_at_most_twice_as_wrong(hadamard(x / 8, backend="triton"), rotation.apply(x / 8), rotation.apply(x.double() / 8))


def test_any_layout_and_an_empty_batch(device):
    x = draw(96, 2, 3, device=device).permute(1, 2, 0)
    torch.testing.assert_close(hadamard(x, backend="triton"), HadamardRotation(96).apply(x), rtol=1e-5, atol=1e-5)
    assert hadamard(torch.ones(0, 96, device=device), backend="triton").shape == (0, 96)
    assert hadamard(torch.ones(96, device=device), backend="triton").shape == (96,)


def test_what_it_does_not_cover_goes_to_the_reference_or_is_refused(device):
    x = draw(2, 64, device=device).double()
    assert hadamard(x).dtype == torch.float64
    with pytest.raises(BadInput, match="float64"):
        hadamard(x, backend="triton")
    with pytest.raises(BadInput, match="does not fit"):
        hadamard(torch.ones(1, 53248, device=device), backend="triton")
    with pytest.raises(BadInput, match="as many signs"):
        hadamard(x, torch.ones(63))
    with pytest.raises(BadInput, match="no Hadamard matrix"):
        hadamard(torch.ones(1, 6))


@pytest.mark.parametrize("sixteen_bit", [True, False])
@pytest.mark.parametrize("n", MODEL_WIDTHS)
def test_every_model_width_has_a_cut(n, sixteen_bit):
    cut = plan(n, sixteen_bit)
    assert cut.first * cut.middle * cut.last == n and cut.first % hadamard_base(n).base == 0
    assert cut.padded >= max(cut.first, SMALLEST) and not cut.padded & (cut.padded - 1) and cut.padded % cut.chunk == 0
    assert cut.rows * cut.middle * cut.last >= SMALLEST and cut.middle in (1, *(2**i for i in range(4, 12)))
    assert cut.middle == 1 or cut.last >= SMALLEST
    assert cut.row * cut.rows <= LARGEST_TILE and cut.multiplications((1, 1)) > 0
