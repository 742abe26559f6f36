"""Finite fields: the axioms, and Paley's identities of the Jacobsthal matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rotviz.numerics.galois import field, irreducible, jacobsthal, prime_power, quadratic_character

ORDERS = [3, 5, 7, 9, 11, 13, 25, 27, 49, 81, 121, 125, 343]


@pytest.mark.parametrize("q, expected", [(2, (2, 1)), (27, (3, 3)), (81, (3, 4)), (343, (7, 3)), (751, (751, 1)), (1, None), (12, None),
                                         (0, None), (45, None)])
def test_prime_powers_are_recognized(q, expected):
    assert prime_power(q) == expected


@pytest.mark.parametrize("p, m", [(3, 2), (3, 3), (5, 2), (3, 4), (7, 3)])
def test_the_modulus_has_no_root(p, m):
    modulus = irreducible(p, m)
    assert len(modulus) == m + 1 and modulus[-1] == 1
    assert all(sum(c * x**i for i, c in enumerate(modulus)) % p for x in range(p))


@pytest.mark.parametrize("q", [9, 27, 25, 81])
def test_every_nonzero_element_has_one_inverse(q):
    gf, elements = field(q), torch.arange(1, q)
    table = gf.multiply(elements[:, None], elements[None, :])
    assert (table != 0).all() and ((table == 1).sum(1) == 1).all()


@given(st.sampled_from([9, 27, 125]), st.data())
def test_multiplication_distributes_over_addition(q, data):
    gf = field(q)
    a, b, c = (torch.tensor(data.draw(st.integers(0, q - 1))) for _ in range(3))
    assert gf.multiply(a, gf.add(b, c)) == gf.add(gf.multiply(a, b), gf.multiply(a, c))
    assert gf.multiply(a, b) == gf.multiply(b, a)
    assert gf.multiply(gf.multiply(a, b), c) == gf.multiply(a, gf.multiply(b, c))
    assert gf.add(gf.subtract(a, b), b) == a


@pytest.mark.parametrize("q", ORDERS)
def test_half_of_the_nonzero_elements_are_squares(q):
    chi = quadratic_character(q)
    assert chi[0] == 0 and (chi == 1).sum() == (q - 1) // 2 and (chi == -1).sum() == (q - 1) // 2


@pytest.mark.parametrize("q", ORDERS)
def test_jacobsthal_identities(q):
    matrix = jacobsthal(q).long()
    assert torch.equal(matrix @ matrix.T, q * torch.eye(q, dtype=torch.int64) - 1)
    assert (matrix.sum(1) == 0).all()
    assert torch.equal(matrix.T, matrix if q % 4 == 1 else -matrix)


def test_a_number_that_is_no_prime_power_is_refused():
    with pytest.raises(ValueError, match="not a power of a prime"):
        field(15)
