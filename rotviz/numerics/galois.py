"""Arithmetic in the finite field GF(q), q = p^m odd: as much as Paley's Hadamard matrices need.

An element is an integer 0 .. q-1 whose base-p digits are the coefficients of a polynomial over GF(p), lowest power first: in GF(9) the
integer 5 = 2 + 1*3 stands for 2 + x. Sums are taken digit by digit modulo p, products modulo an irreducible monic polynomial of degree m.

The quadratic character says which elements are squares,

    chi(0) = 0,   chi(a) = 1 if a = b^2 for some b != 0,   chi(a) = -1 otherwise,

and the Jacobsthal matrix Q[a, b] = chi(a - b) satisfies Q Q^T = q I - J and Q J = 0, from which Paley (1933) builds Hadamard matrices.
Q is symmetric when q = 1 (mod 4) and skew when q = 3 (mod 4).

Every finite field of q elements is the same up to naming, so the first irreducible polynomial found will do; the search tries them all in
order. Fields here have at most a few thousand elements.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Field:
    """GF(p^m). `modulus` is an irreducible monic polynomial of degree m, coefficients from the lowest power up."""

    p: int
    m: int
    modulus: tuple[int, ...]

    @property
    def order(self) -> int:
        """How many elements there are: q = p^m."""
        return self.p**self.m

    def digits(self, elements: Tensor) -> Tensor:
        """Polynomial coefficients of elements. [...] -> [..., m]."""
        powers = self.p ** torch.arange(self.m)
        return elements.unsqueeze(-1) // powers % self.p

    def number(self, digits: Tensor) -> Tensor:
        """Elements with these polynomial coefficients. [..., m] -> [...]."""
        return (digits % self.p * self.p ** torch.arange(self.m)).sum(-1)

    def subtract(self, a: Tensor, b: Tensor) -> Tensor:
        """a - b, broadcast."""
        return self.number(self.digits(a) - self.digits(b))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b, broadcast."""
        return self.number(self.digits(a) + self.digits(b))

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """a * b, elementwise: multiply the polynomials, then take away multiples of the modulus from the top power down."""
        a, b = self.digits(a), self.digits(b)
        result = torch.zeros(*torch.broadcast_shapes(a.shape, b.shape)[:-1], 2 * self.m - 1, dtype=torch.int64)
        for power in range(self.m):
            result[..., power:power + self.m] += a[..., power:power + 1] * b
        modulus = torch.tensor(self.modulus)
        for top in range(2 * self.m - 2, self.m - 1, -1):
            result[..., top - self.m:top + 1] -= result[..., top:top + 1] % self.p * modulus
        return self.number(result[..., :self.m])


def prime_power(q: int) -> tuple[int, int] | None:
    """(p, m) with q = p^m and p prime, or None."""
    if q < 2:
        return None
    p = next((d for d in range(2, int(q**0.5) + 1) if q % d == 0), q)
    m = 0
    while q % p == 0:
        q, m = q // p, m + 1
    return (p, m) if q == 1 else None


@lru_cache(maxsize=64)
def field(q: int) -> Field:
    """The field of q elements.

    Raises:
        ValueError: q is no prime power.
    """
    found = prime_power(q)
    if found is None:
        raise ValueError(f"{q} is not a power of a prime, so no field has {q} elements")
    return Field(*found, modulus=irreducible(*found))


def irreducible(p: int, m: int) -> tuple[int, ...]:
    """The first monic polynomial of degree m over GF(p) that no polynomial of lower degree divides; lowest power first."""
    return next(candidate for candidate in _monic(p, m) if not _has_divisor(candidate, p))


@lru_cache(maxsize=64)
def quadratic_character(q: int) -> Tensor:
    """chi of every element. -> int8 [q]; shared, so do not write to it."""
    gf = field(q)
    nonzero = torch.arange(1, q)
    chi = torch.full((q,), -1, dtype=torch.int8)
    chi[gf.multiply(nonzero, nonzero)] = 1
    chi[0] = 0
    return chi


def jacobsthal(q: int) -> Tensor:
    """Q[a, b] = chi(a - b). -> int8 [q, q]."""
    elements = torch.arange(q)
    return quadratic_character(q)[field(q).subtract(elements[:, None], elements[None, :])]


def _monic(p: int, degree: int) -> Iterator[tuple[int, ...]]:
    for low in product(range(p), repeat=degree):
        yield (*reversed(low), 1)


def _has_divisor(polynomial: tuple[int, ...], p: int) -> bool:
    degree = len(polynomial) - 1
    return any(_divides(divisor, polynomial, p) for d in range(1, degree // 2 + 1) for divisor in _monic(p, d))


def _divides(divisor: tuple[int, ...], polynomial: tuple[int, ...], p: int) -> bool:
    """Long division by a monic polynomial; True when nothing is left."""
    rest = list(polynomial)
    for top in range(len(rest) - 1, len(divisor) - 2, -1):
        factor = rest[top]
        for offset, coefficient in enumerate(reversed(divisor)):
            rest[top - offset] = (rest[top - offset] - factor * coefficient) % p
    return not any(rest)
