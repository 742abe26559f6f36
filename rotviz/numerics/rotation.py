"""Rotations as operators: what a rotation does to a row, without its dense matrix unless somebody asks.

    apply(x) = x R        apply_inverse(x) = x R^T        dense() = R        (row vectors: R acts on the last axis from the right)

The same operator folds into weights: `W R` is `apply(W)` and `R^T W` is `apply(W.T).T`. The idea is linear_operator's (Gardner et al.):
a matrix is what it does, so structure (a Kronecker product, a block diagonal) is kept and a product with it stays cheap.

The randomized Hadamard rotation is R = D H / sqrt(n), D = diag(+-1) on the input side and H = H_K (x) S_(2^t) (hadamard.py). Because
A (x) B acts on a row reshaped to [a, b] as A^T X B, it is applied as a few products with small dense factors, one an axis. That needs more
additions than butterflies, but a small matrix product runs at full speed where butterflies wait for memory: on two CPU cores, 2048 x 1536
float32 rows take a fifth of the time of the butterflies and a tenth of that of the dense product.

float16 and bfloat16 rows are turned in float32 and cast back: rounding between the factors would add noise of its own to what is measured.
Truth (`dense`, `orthogonality_error`) is float64 on the CPU.
"""

import math
from abc import ABC, abstractmethod
from functools import reduce

import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.numerics.hadamard import base_matrix, hadamard_base, sylvester
from rotviz.numerics.orthogonal import orthogonality_error

SMALL_FACTOR = 32
"""The size of a dense Sylvester factor that takes the place of five stages of butterflies."""


class Rotation(ABC):
    """An orthogonal matrix R of `size` x `size`. Immutable: what `describe` says stays true."""

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        if size < 1:
            raise BadInput(f"a rotation has at least one channel, not {size}")
        self._size = size

    @property
    def size(self) -> int:
        """Width of the axis that is turned."""
        return self._size

    def apply(self, x: Tensor) -> Tensor:
        """x R. [..., size] -> the same shape, dtype and device; differentiable with respect to x."""
        return self._turn(x, inverse=False)

    def apply_inverse(self, x: Tensor) -> Tensor:
        """x R^T, which undoes `apply`. [..., size] -> the same shape, dtype and device."""
        return self._turn(x, inverse=True)

    @abstractmethod
    def dense(self) -> Tensor:
        """R. -> float64 [size, size] on the CPU, a copy of its own."""

    @abstractmethod
    def describe(self) -> str:
        """What this is, in words, for a table or a log."""

    @abstractmethod
    def online_cost(self) -> int:
        """Multiply-adds that one row costs when the rotation is applied at run time (with butterflies for the power of two)."""

    @abstractmethod
    def _product(self, x: Tensor, inverse: bool) -> Tensor:
        """x R or x R^T for x in float32, float64 or wider."""

    def orthogonality_error(self) -> float:
        """max |R^T R - I| in float64."""
        return orthogonality_error(self.dense())

    def _turn(self, x: Tensor, inverse: bool) -> Tensor:
        if x.shape[-1:] != (self.size,):
            raise BadInput(f"a rotation of size {self.size} cannot turn shape {tuple(x.shape)}: the last axis must be {self.size}")
        if not x.is_floating_point():
            raise BadInput(f"a rotation turns floating-point numbers, not {x.dtype}")
        if x.dtype in (torch.float16, torch.bfloat16):
            return self._product(x.float(), inverse).to(x.dtype)
        return self._product(x, inverse)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.size}: {self.describe()}>"


class IdentityRotation(Rotation):
    """R = I."""

    __slots__ = ()

    def dense(self) -> Tensor:
        return torch.eye(self.size, dtype=torch.float64)

    def describe(self) -> str:
        return "identity"

    def online_cost(self) -> int:
        return 0

    def orthogonality_error(self) -> float:
        return 0.0

    def _product(self, x: Tensor, inverse: bool) -> Tensor:
        return x


class DenseRotation(Rotation):
    """R given entry by entry: Haar rotations, learned ones.

    Args:
        matrix: [size, size]; kept as a float64 copy on the CPU.
        name: words for `describe`.
    """

    __slots__ = ("_copies", "_name")

    def __init__(self, matrix: Tensor, name: str = "dense") -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise BadInput(f"a rotation is a square matrix, not one of shape {tuple(matrix.shape)}")
        super().__init__(matrix.shape[0])
        self._name = name
        self._copies = _Copies((matrix,))

    def dense(self) -> Tensor:
        return self._copies.truth[0].clone()

    def describe(self) -> str:
        return self._name

    def online_cost(self) -> int:
        return self.size**2

    def _product(self, x: Tensor, inverse: bool) -> Tensor:
        (matrix,) = self._copies.like(x)
        return x @ (matrix.T if inverse else matrix)


class HadamardRotation(Rotation):
    """R = D H / sqrt(n) with H = H_K (x) S_(2^t), or, where no H_K exists, D (Q_K (x) S_(2^t) / sqrt(2^t)) with Q_K orthogonal.

    Args:
        size: n.
        signs: [n] of +-1, the diagonal of D; None = no sign flips.
        base: an orthogonal matrix [K, K] to put in place of H_K / sqrt(K), with n = K * 2^t; None = the construction of `hadamard_base`.

    Raises:
        BadInput: no construction makes the order and no base is given, the base does not fit, or a sign is not +-1.
    """

    __slots__ = ("_base", "_copies", "_name", "_signed", "_sizes")

    def __init__(self, size: int, signs: Tensor | None = None, base: Tensor | None = None) -> None:
        super().__init__(size)
        self._base, scale, self._name = _known_base(size) if base is None else _given_base(size, base)
        factors = _small_factors(self._base, size // self._base.shape[0])
        self._sizes = tuple(f.shape[0] for f in factors)
        self._signed = signs is not None
        if signs is not None:  # the scale rides on the signs, which are a pass over the rows anyway, and leaves the factors exactly +-1
            self._copies = _Copies((_checked_signs(size, signs).to(torch.float64) * scale, *factors))
        else:
            self._copies = _Copies((factors[0] * scale, *factors[1:]))

    @property
    def signs(self) -> Tensor | None:
        """The diagonal of D as float64 [size], or None."""
        return self._copies.truth[0].sign() if self._signed else None

    @property
    def base(self) -> int:
        """K, the size of the part that is not a power of two."""
        return self._base.shape[0]

    @property
    def base_orthogonal(self) -> Tensor:
        """The part that is not a power of two, as an orthogonal matrix [K, K] in float64: H_K / sqrt(K), or Q_K."""
        return self._base.double() / self._base[0].double().norm()

    def dense(self) -> Tensor:
        if not self._signed:
            return reduce(torch.kron, self._copies.truth).clone()
        diagonal, *factors = self._copies.truth
        return reduce(torch.kron, factors) * diagonal[:, None]

    def describe(self) -> str:
        return f"{self._name}, sign flips" if self._signed else self._name

    def online_cost(self) -> int:
        butterflies = self.size * int(math.log2(self.size // self.base))
        mixing = self.size * self.base if self.base > 1 else 0
        return butterflies + mixing + (self.size if self._signed else 0)

    def orthogonality_error(self) -> float:
        """Of the base alone, which decides: the Sylvester part and the signs are exact, and (A (x) B)^T (A (x) B) = A^T A (x) B^T B."""
        return orthogonality_error(self._base / self._base[0].norm())

    def _product(self, x: Tensor, inverse: bool) -> Tensor:
        small = self._copies.like(x)
        diagonal, factors = (small[0], small[1:]) if self._signed else (None, small)
        if inverse:
            y = _kronecker_product(x, tuple(f.T for f in factors), self._sizes)
            return y if diagonal is None else y * diagonal
        return _kronecker_product(x if diagonal is None else x * diagonal, factors, self._sizes)


class BlockDiagonalRotation(Rotation):
    """R = D (I_count (x) R_inner): neighbouring channels in blocks of `inner.size`, each turned alike.

    Args:
        inner: the rotation of one block.
        count: how many blocks.
        signs: [count * inner.size] of +-1, the diagonal of D, so that equal blocks need not be flipped alike; None = no sign flips.
    """

    __slots__ = ("_copies", "_count", "_inner")

    def __init__(self, inner: Rotation, count: int, signs: Tensor | None = None) -> None:
        super().__init__(inner.size * count)
        self._inner = inner
        self._count = count
        self._copies = None if signs is None else _Copies((_checked_signs(self.size, signs),))

    def dense(self) -> Tensor:
        blocks = torch.kron(torch.eye(self._count, dtype=torch.float64), self._inner.dense())
        return blocks if self._copies is None else blocks * self._copies.truth[0][:, None]

    def describe(self) -> str:
        flips = "" if self._copies is None else ", sign flips"
        return f"{self._count} blocks of {self._inner.size}: {self._inner.describe()}{flips}"

    def online_cost(self) -> int:
        return self._count * self._inner.online_cost() + (0 if self._copies is None else self.size)

    def orthogonality_error(self) -> float:
        return self._inner.orthogonality_error()

    def _product(self, x: Tensor, inverse: bool) -> Tensor:
        diagonal = None if self._copies is None else self._copies.like(x)[0]
        if diagonal is not None and not inverse:
            x = x * diagonal
        turned = self._inner._turn(x.unflatten(-1, (self._count, self._inner.size)), inverse).flatten(-2)
        return turned * diagonal if diagonal is not None and inverse else turned


class _Copies:
    """Small matrices in float64 on the CPU, with one copy in the dtype and on the device that were asked for last.

    An online rotation meets the same dtype and device in every call; converting the factors each time would cost more than the product.
    """

    __slots__ = ("_last", "truth")

    def __init__(self, matrices: tuple[Tensor, ...]) -> None:
        # Tensors made in inference mode can never take part in autograd afterwards, so all copies are made outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.truth = tuple(torch.empty(m.shape, dtype=torch.float64).copy_(m) for m in matrices)
        self._last: tuple[torch.dtype, torch.device, tuple[Tensor, ...]] | None = None

    def like(self, x: Tensor) -> tuple[Tensor, ...]:
        """The matrices in x's dtype and on x's device."""
        last = self._last  # read once: another thread may replace it
        if last is None or last[0] != x.dtype or last[1] != x.device:
            with torch.inference_mode(False), torch.no_grad():
                last = (x.dtype, x.device, tuple(m.to(x.device, x.dtype) for m in self.truth))
            self._last = last
        return last[2]


def _known_base(size: int) -> tuple[Tensor, float, str]:
    made = hadamard_base(size)
    if made is None:
        raise BadInput(f"no Hadamard matrix of order {size} can be made here; give an orthogonal base, or use blocks of a smaller size")
    return base_matrix(made.base).to(torch.float64), size**-0.5, f"Hadamard: {made.name}"


def _given_base(size: int, base: Tensor) -> tuple[Tensor, float, str]:
    k = base.shape[0]
    power = size // k
    if base.shape != (k, k) or size % k or power & (power - 1):
        raise BadInput(f"a base of shape {tuple(base.shape)} times a power of two does not give {size}")
    base = base.detach().to("cpu", torch.float64, copy=True)
    return base, power**-0.5, f"orthogonal {k}" + (f", times Sylvester {power}" if power > 1 else "")


def _checked_signs(size: int, signs: Tensor) -> Tensor:
    if signs.shape != (size,) or not bool((signs.abs() == 1).all()):
        raise BadInput(f"signs are {size} numbers of +1 or -1, not a tensor of shape {tuple(signs.shape)} with other values")
    return signs


def factor_sizes(base: int, power: int) -> tuple[int, ...]:
    """The sizes of small dense factors whose product is base * power; the base, perhaps grown by a power of two, comes first.

    Measured on a CPU: 32 contiguous columns make the cheapest factor, the base may take in powers of two up to 64, and a longer power of
    two is best cut into even parts of at most 32 (so 14336 = 28 * 16 * 32).
    """
    grown = base * power // SMALL_FACTOR
    if power >= SMALL_FACTOR and base * power > 2 * SMALL_FACTOR and grown <= 2 * SMALL_FACTOR:
        sizes = [grown, SMALL_FACTOR]
    elif power <= 2 * SMALL_FACTOR:
        sizes = [base, power]
    else:
        exponent, parts = power.bit_length() - 1, -(-(power.bit_length() - 1) // 5)
        sizes = [base, *(2 ** ((exponent + i) // parts) for i in range(parts))]
    return tuple(size for size in sizes if size > 1) or (1,)


def _small_factors(base: Tensor, power: int) -> tuple[Tensor, ...]:
    """base (x) S_power as matrices of `factor_sizes`, whose Kronecker product it is."""
    first, *others = factor_sizes(base.shape[0], power)
    grown = torch.kron(base, sylvester(first // base.shape[0]).to(torch.float64))
    return (grown, *(sylvester(size).to(torch.float64) for size in others))


def _kronecker_product(x: Tensor, factors: tuple[Tensor, ...], sizes: tuple[int, ...]) -> Tensor:
    """x (F_1 (x) F_2 (x) ...). x [..., n] with n the product of the sizes."""
    y = x.reshape(-1, sizes[-1]) @ factors[-1]
    right = sizes[-1]
    for factor, size in zip(factors[-2::-1], sizes[-2::-1], strict=True):
        y = torch.matmul(factor.T, y.reshape(-1, size, right))
        right *= size
    return y.reshape(x.shape)
