"""Hadamard matrices, generated instead of shipped, and the fast transform that multiplies by them.

A Hadamard matrix of order n has entries +-1 and H H^T = n I, so H / sqrt(n) is orthogonal and every entry of it has the same
size: it is the orthogonal matrix that spreads one spike most evenly over all channels. Orders other than 1 and 2 are multiples of 4.

    n = K * 2^t      H_n = H_K (x) S_(2^t)      S_1 = [1],  S_2m = [[S_m, S_m], [S_m, -S_m]]   (Sylvester)

The base H_K comes from the first construction here that makes its order:

    Paley I     q = 3 (mod 4) a prime power   order q + 1       H = I + [[0, 1], [-1, Q]]                         skew type
    Paley II    q = 1 (mod 4) a prime power   order 2 (q + 1)   H = C (x) [[1, 1], [1, -1]] + I (x) [[1, -1], [-1, -1]],
                                                                C = [[0, 1], [1, Q]]                             symmetric
    Williamson  m odd, rows below             order 4 m         H = [[A, B, C, D], [-B, A, -D, C], [-C, D, A, -B], [-D, -C, B, A]]
    Kronecker   K = K1 * K2                                     H = H_K1 (x) H_K2

with Q the Jacobsthal matrix of GF(q) (galois.py), and A, B, C, D symmetric circulants with A^2 + B^2 + C^2 + D^2 = 4 m I.
References: Paley, J. Math. Phys. 12 (1933); Williamson, Duke Math. J. 11 (1944); Horadam, Hadamard Matrices and their Applications (2007).

Departure from QuaRot and SpinQuant: they ship tables (mostly from Sloane's library) and refuse widths that the tables miss. Matrices of one
order are not unique, so weights rotated with released tables are statistically, not bit for bit, the same as with ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rotviz.numerics.galois import jacobsthal, prime_power

LARGEST_BASE = 2048
"""Bases above this are not made: the dense K x K product would cost as much as the rotation saves."""

WILLIAMSON_ROWS: dict[int, tuple[tuple[int, ...], ...]] = {
    3: ((), (1,), (1,), (1,)),
    5: ((2,), (1,), (1, 2), (1, 2)),
    7: ((3,), (3,), (2,), (1, 3)),
    23: ((5, 8, 9, 10), (1, 5, 6, 9, 11), (1, 3, 4, 10, 11), (1, 2, 5, 7, 9, 10, 11)),
    29: ((7, 8, 9, 11, 14), (4, 5, 6, 10, 12, 13), (2, 6, 7, 8, 10, 11, 13), (1, 3, 6, 7, 8, 10, 11, 13)),
    39: ((1, 4, 5, 6, 7, 8, 9, 12, 13, 15, 17), (1, 2, 3, 5, 6, 7, 9, 12, 15, 16, 17, 18),
         (1, 2, 3, 5, 6, 11, 12, 13, 14, 16, 18), (2, 3, 7, 9, 10, 13, 15, 16, 17, 18, 19)),
    # Constant on the cosets of {+-1, +-6, +-7} in Z_43*; the offsets of the cosets of 5,9,10 | 3,4,5,9 | 2,4,9 | 1,4,5.
    43: tuple(tuple(sorted({min(c * s % 43, -c * s % 43) for c in cosets for s in (1, 6, 7)}))
              for cosets in ((5, 9, 10), (3, 4, 5, 9), (2, 4, 9), (1, 4, 5))),
}
"""For each odd m, the four first rows: +1 everywhere except -1 at plus and minus the listed offsets."""


@dataclass(frozen=True, slots=True)
class Construction:
    """How a Hadamard matrix is made: `order` = `base` * 2^t.

    name is for a reader: "Paley II over GF(17), times Sylvester 16".
    """

    order: int
    base: int
    name: str

    @property
    def sylvester(self) -> int:
        """The power of two beside the base."""
        return self.order // self.base


@lru_cache(maxsize=1024)
def hadamard_base(n: int) -> Construction | None:
    """The construction of order n with the smallest base K, n = K * 2^t, or None where none here makes it."""
    if n < 1:
        return None
    base = n & ~(n - 1)  # the largest power of two in n
    odd = n // base
    if odd == 1:
        return Construction(n, 1, f"Sylvester {n}")
    candidates = (odd * 2**j for j in range(2, base.bit_length()))
    for k in candidates:
        name = _base_name(k)
        if name is not None:
            return Construction(n, k, name if k == n else f"{name}, times Sylvester {n // k}")
    return None


@lru_cache(maxsize=128)
def base_matrix(order: int) -> Tensor:
    """The base of that order. -> int8 [order, order]; shared, so do not write to it.

    Raises:
        ValueError: no construction makes the order.
    """
    if order == 1:
        return torch.ones(1, 1, dtype=torch.int8)
    if prime_power(order - 1) and order % 4 == 0:
        return paley_one(order - 1)
    if order % 4 == 0 and _paley_two_field(order):
        return paley_two(order // 2 - 1)
    if order // 4 in WILLIAMSON_ROWS and order % 4 == 0:
        return williamson(order // 4)
    factors = _kronecker_factors(order)
    if factors is None:
        raise ValueError(f"no construction here makes a Hadamard base of order {order}")
    return torch.kron(base_matrix(factors[0]), base_matrix(factors[1]))


def hadamard_matrix(n: int) -> Tensor:
    """H_n = H_K (x) S_(n/K). -> int8 [n, n].

    Raises:
        ValueError: no construction makes the order.
    """
    made = hadamard_base(n)
    if made is None:
        raise ValueError(f"no construction here makes a Hadamard matrix of order {n}")
    return torch.kron(base_matrix(made.base), sylvester(made.sylvester))


def largest_hadamard_divisor(n: int) -> int:
    """The largest divisor of n for which `hadamard_base` knows a construction; 1 at worst."""
    return next(d for d in range(n, 0, -1) if n % d == 0 and hadamard_base(d) is not None)


def fwht(x: Tensor) -> Tensor:
    """Fast Walsh-Hadamard transform along the last axis, natural order, not normalized: x @ S_n.

    log2(n) stages of butterflies (a, b) -> (a + b, a - b) on pairs 1, 2, 4, ... apart: n log2(n) additions a row. The plain twin of what
    rotation.py does with small dense factors, which modern CPUs and GPUs run faster.

    Args:
        x: [..., n] with n a power of two; any dtype and device; differentiable.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise ValueError(f"the Walsh-Hadamard transform needs a power of two, not {n}")
    stride = 1
    while stride < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * stride), 2, stride)
        a, b = pairs.unbind(-2)
        x = torch.stack((a + b, a - b), dim=-2).reshape(x.shape)
        stride *= 2
    return x


def sylvester(n: int) -> Tensor:
    """S_n for a power of two. -> int8 [n, n]. S[i, j] = (-1)^(number of ones in i AND j)."""
    h = torch.ones(1, 1, dtype=torch.int8)
    while h.shape[0] < n:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    return h


def paley_one(q: int) -> Tensor:
    """Order q + 1, q = 3 (mod 4) a prime power. -> int8. Skew type: H + H^T = 2 I."""
    skew = _bordered(jacobsthal(q))
    skew[1:, 0] = -1
    return skew + torch.eye(q + 1, dtype=torch.int8)


def paley_two(q: int) -> Tensor:
    """Order 2 (q + 1), q = 1 (mod 4) a prime power. -> int8. Symmetric."""
    conference = _bordered(jacobsthal(q))
    off = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    on = torch.tensor([[1, -1], [-1, -1]], dtype=torch.int8)
    return torch.kron(conference, off) + torch.kron(torch.eye(q + 1, dtype=torch.int8), on)


def williamson(m: int) -> Tensor:
    """Order 4 m from the rows above. -> int8."""
    a, b, c, d = (_circulant(m, minus) for minus in WILLIAMSON_ROWS[m])
    rows = ((a, b, c, d), (-b, a, -d, c), (-c, d, a, -b), (-d, -c, b, a))
    return torch.cat([torch.cat(row, 1) for row in rows])


def _bordered(q_matrix: Tensor) -> Tensor:
    """[[0, 1], [1, Q]]."""
    size = q_matrix.shape[0] + 1
    bordered = torch.ones(size, size, dtype=torch.int8)
    bordered[0, 0] = 0
    bordered[1:, 1:] = q_matrix
    return bordered


def _circulant(m: int, minus: tuple[int, ...]) -> Tensor:
    row = torch.ones(m, dtype=torch.int8)
    for offset in minus:
        row[offset] = row[-offset] = -1
    index = torch.arange(m)
    return row[(index[None, :] - index[:, None]) % m]


@lru_cache(maxsize=4096)
def _base_name(order: int) -> str | None:
    """Which construction makes a base of this order; the same order of preference as `base_matrix`."""
    if order % 4 or order > LARGEST_BASE:
        return None
    if prime_power(order - 1):
        return f"Paley I over GF({order - 1})"  # order = 0 (mod 4) makes q = 3 (mod 4)
    if _paley_two_field(order):
        return f"Paley II over GF({order // 2 - 1})"
    if order // 4 in WILLIAMSON_ROWS:
        return f"Williamson 4 x {order // 4}"
    factors = _kronecker_factors(order)
    return None if factors is None else " (x) ".join(str(_base_name(f)) for f in factors)


def _paley_two_field(order: int) -> bool:
    q = order // 2 - 1
    return q % 4 == 1 and prime_power(q) is not None


@lru_cache(maxsize=4096)
def _kronecker_factors(order: int) -> tuple[int, int] | None:
    """(K1, K2) with K1 * K2 = order, both bases with an odd part of their own, K1 <= K2."""
    return next((pair for pair in _splits(order) if _base_name(pair[0]) and _base_name(pair[1])), None)


def _splits(order: int) -> Iterator[tuple[int, int]]:
    for small in range(12, int(order**0.5) + 1, 4):
        if order % small == 0 and small & (small - 1) and (order // small) % 4 == 0:
            yield small, order // small
