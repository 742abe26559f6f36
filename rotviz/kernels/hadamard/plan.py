"""How the transform of one width is cut into dense factors that a tensor core can multiply.

    n = K 2^t = F1 F2 F3        H_n = H_F1 (x) S_F2 (x) S_F3        F1 = K 2^j, F2 and F3 powers of two

A row of n numbers is a cube [F1, F2, F3] and the transform is one small product along each axis. F1 is padded with zeros to a power of two, as
Triton's shapes are, and F2 F3 is not, so that the padding is at the end of the row. A product needs factors of 16 or more: where
F3 is smaller, 16 / F3 rows go through I (x) S_F3 together.

Which cut is best is a balance of multiplications (F1 + F2 + F3 a number, times the bfloat16 pieces each product needs, times the padding) and of
passes through shared memory between the products. `cost` puts both in multiplications a number, and `plan` takes the cheapest cut.
PASS_COST is an estimate from an H100's data sheet (a float32 number through shared memory and back takes about as long as 128 multiply-adds of
bfloat16), not a measurement.
"""

import functools
from dataclasses import dataclass

from rotviz.numerics.hadamard import hadamard_base

PASS_COST = 128
SMALLEST = 16
LARGEST_TILE = 32_768
"""Numbers of one row, padded, that stay on chip: 128 KB of float32, half of a multiprocessor's registers."""
FULL_TILE = 8_192
TABLE_TILE = 8_192
INPUT_TILE = 16_384
"""Numbers of H_F1 and of the rows that one step of the first product holds; larger ones spill (seen when compiling for an H100)."""
NUMBERS_PER_WARP = 2_048


@dataclass(frozen=True, slots=True)
class Plan:
    """One cut: n = first * middle * last; `padded` >= first; `rows` rows a program; `chunk` rows of H_first at a time."""

    n: int
    first: int
    middle: int
    last: int
    padded: int
    rows: int
    chunk: int
    warps: int

    @property
    def row(self) -> int:
        """Numbers of a row with its padding."""
        return self.padded * self.middle * self.last

    def multiplications(self, pieces: tuple[int, int]) -> int:
        """Multiply-adds a row costs, padding included; pieces of the first product and of the others."""
        rest = (max(SMALLEST, self.last) if self.last > 1 else 0) + (self.middle if self.middle > 1 else 0)
        return self.row * (self.padded * pieces[0] + rest * pieces[1])

    def cost(self, pieces: tuple[int, int]) -> float:
        """Multiplications a number, with the passes through shared memory in the same unit."""
        passes = (self.last > 1) + (self.middle > 1)
        return (self.multiplications(pieces) + self.row * passes * PASS_COST) / self.n


def pieces_for(sixteen_bit: bool) -> tuple[int, int]:
    """bfloat16 pieces of a number in the first product (a 16-bit input is one by itself) and in those that follow."""
    return (1, 2) if sixteen_bit else (3, 3)


@functools.lru_cache(maxsize=512)
def plan(n: int, sixteen_bit: bool = True) -> Plan | None:
    """The cheapest cut of width n, or None where the width has no Hadamard matrix or its row does not fit on chip."""
    made = hadamard_base(n)
    if made is None:
        return None
    cuts = [_plan(n, made.base << j, *cut) for j in range(made.sylvester.bit_length()) for cut in _cuts(made.sylvester >> j)]
    fitting = [p for p in cuts if p.row * p.rows <= LARGEST_TILE and p.padded <= 1024]
    return min(fitting, key=lambda p: p.cost(pieces_for(sixteen_bit)), default=None)


def next_power(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def _cuts(power: int) -> list[tuple[int, int]]:
    """(F2, F3) with F2 F3 = power; F2 is 1 or at least 16, and F3 is at least 16 if F2 is not 1."""
    middles = [1] + [2**i for i in range(4, power.bit_length()) if power >> i >= SMALLEST]
    return [(m, power // m) for m in middles if power // m <= 512]


def _plan(n: int, first: int, middle: int, last: int) -> Plan:
    padded = max(SMALLEST, next_power(first))
    columns = middle * last
    row = padded * columns
    rows = max(1, SMALLEST // columns, FULL_TILE // row)
    chunk = min(padded, max(SMALLEST, min(TABLE_TILE // padded, INPUT_TILE // (rows * columns))))
    warps = min(16, max(4, next_power(rows * row) // NUMBERS_PER_WARP))
    return Plan(n, first, middle, last, padded, rows, chunk, warps)
