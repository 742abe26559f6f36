"""Hadamard matrices: every construction is exactly one, and the table of widths in METHODS.md section 2.2 is met."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rotviz.numerics.hadamard import (
    WILLIAMSON_ROWS,
    base_matrix,
    fwht,
    hadamard_base,
    hadamard_matrix,
    largest_hadamard_divisor,
    paley_one,
    paley_two,
    sylvester,
    williamson,
)

PALEY_ONE = [11, 19, 27, 43, 59, 67, 83, 103, 107, 131, 139, 163, 179, 311, 343, 367, 463, 751]
PALEY_TWO = [5, 9, 13, 17, 25, 29, 37, 41, 49, 53, 61, 73, 81, 89, 101, 109]
BASES = [12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 92, 100, 104, 108, 116, 124, 132, 140, 148, 156, 164, 172, 180, 204, 220, 312, 344, 368,
         420, 464, 540, 684, 752, 924]
WIDTHS = {576: 36, 768: 12, 896: 28, 960: 60, 1152: 36, 1536: 12, 1920: 60, 2304: 36, 2560: 20, 2816: 44, 3072: 12, 3200: 100, 3584: 28,
          4864: 76, 4992: 156, 5120: 20, 5376: 84, 5632: 44, 5760: 180, 6144: 12, 6400: 100, 6912: 108, 8640: 540, 8960: 140, 9216: 36,
          9728: 76, 10240: 20, 10944: 684, 11008: 172, 11264: 44, 12288: 12, 12800: 100, 13440: 420, 13824: 108, 14336: 28, 14784: 924,
          15360: 60, 17408: 68, 17920: 140, 18944: 148, 19456: 76, 20480: 20, 21504: 84, 22016: 172, 25600: 100, 27648: 108, 28672: 28,
          29568: 924, 53248: 52}


def assert_hadamard(matrix: torch.Tensor, order: int) -> None:
    wide = matrix.long()
    assert matrix.shape == (order, order) and (wide.abs() == 1).all()
    assert torch.equal(wide @ wide.T, order * torch.eye(order, dtype=torch.int64))


@pytest.mark.parametrize("q", PALEY_ONE)
def test_paley_one_is_hadamard_and_skew(q):
    matrix = paley_one(q)
    assert_hadamard(matrix, q + 1)
    assert torch.equal(matrix + matrix.T, 2 * torch.eye(q + 1, dtype=torch.int8))


@pytest.mark.parametrize("q", PALEY_TWO)
def test_paley_two_is_hadamard_and_symmetric(q):
    matrix = paley_two(q)
    assert_hadamard(matrix, 2 * (q + 1))
    assert torch.equal(matrix, matrix.T)


@pytest.mark.parametrize("m", WILLIAMSON_ROWS)
def test_williamson_is_hadamard(m):
    assert_hadamard(williamson(m), 4 * m)


@pytest.mark.parametrize("order", BASES)
def test_every_listed_base_is_made(order):
    assert_hadamard(base_matrix(order), order)


@pytest.mark.parametrize("width, base", WIDTHS.items())
def test_widths_of_real_models_have_a_base(width, base):
    made = hadamard_base(width)
    assert (made.order, made.base) == (width, base)
    assert made.base * made.sylvester == width


@pytest.mark.parametrize("order", [1, 2, 4, 8, 40, 56, 88, 96, 576])
def test_whole_matrices_are_hadamard(order):
    assert_hadamard(hadamard_matrix(order), order)


def test_a_product_of_two_bases_fills_a_gap():
    made = hadamard_base(1904)
    assert made.name == "Paley I over GF(27) (x) Paley I over GF(67)"
    assert_hadamard(base_matrix(made.base), made.base)


@pytest.mark.parametrize("order", [0, 3, 6, 9, 15, 107, 13696, 188, 236])
def test_orders_that_no_construction_reaches_say_so(order):
    assert hadamard_base(order) is None
    with pytest.raises(ValueError, match="no construction"):
        hadamard_matrix(order)


def test_constructions_are_named():
    assert hadamard_base(576).name == "Paley II over GF(17), times Sylvester 16"
    assert hadamard_base(28).name == "Paley I over GF(27)"
    assert hadamard_base(11008).name == "Williamson 4 x 43, times Sylvester 64"
    assert hadamard_base(64).name == "Sylvester 64"


@pytest.mark.parametrize("n, divisor", [(13696, 128), (428, 4), (576, 576), (9, 1), (15 * 64, 960)])
def test_largest_divisor(n, divisor):
    assert largest_hadamard_divisor(n) == divisor


@given(st.integers(0, 9), st.integers(0, 2**31))
def test_fwht_is_the_product_with_sylvester(t, seed):
    x = torch.randint(-99, 99, (3, 2**t), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(fwht(x), x @ sylvester(2**t).long())
    assert torch.equal(fwht(fwht(x)), x * 2**t)


def test_fwht_is_differentiable_and_keeps_the_dtype():
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fwht, (x,))
    assert fwht(torch.ones(4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="power of two"):
        fwht(torch.ones(12))
